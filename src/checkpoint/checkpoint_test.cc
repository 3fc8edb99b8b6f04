// The container formats: what is right is read in place, what is wrong ends in one line that names the fault.
#include <gmock/gmock.h>

#include <random>

#include "base/float_types.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/config_fields.h"
#include "tests/support/scratch_dir.h"

namespace minimo {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::Safetensors;
using testing::ScratchDir;

std::string OpenError(const std::string& bytes) {
  ScratchDir dir;
  dir.Write("x.safetensors", bytes);
  const auto file = SafetensorsFile::Open(dir.File("x.safetensors"));
  if (file.ok()) return "";
  EXPECT_THAT(file.error().message, HasSubstr("x.safetensors"));
  EXPECT_THAT(file.error().message, Not(HasSubstr("\n")));
  return file.error().message;
}

TEST(Safetensors, RoundTrip) {
  ScratchDir dir;
  const float values[] = {1, 2, 3, 4, 5, 6};
  const int32_t ids[] = {7, -8};
  const NamedTensor tensors[] = {{"a", {DType::kF32, {2, 3}, reinterpret_cast<const std::byte*>(values)}},
                                 {"b", {DType::kI32, {2}, reinterpret_cast<const std::byte*>(ids)}},
                                 {"empty", {DType::kBf16, {0, 4}, nullptr}}};
  ASSERT_TRUE(WriteSafetensors(dir.File("x.safetensors"), tensors, {{"format", "pt"}}).ok());
  const auto file = SafetensorsFile::Open(dir.File("x.safetensors"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(file->tensors().at("a").shape, (Shape{2, 3}));
  EXPECT_EQ(file->tensors().at("a").As<float>()[5], 6.0f);
  EXPECT_EQ(file->tensors().at("b").As<int32_t>()[1], -8);
  EXPECT_EQ(file->tensors().at("empty").bytes(), 0);
}

TEST(Safetensors, MisalignedTensorsAreReadAllTheSame) {
  const float value = 3.5f;
  std::string data("x");  // one byte of U8 before the float
  data.append(reinterpret_cast<const char*>(&value), 4);
  ScratchDir dir;
  dir.Write("x.safetensors", Safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                         R"("b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}} )", data));
  const auto file = SafetensorsFile::Open(dir.File("x.safetensors"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(*file->tensors().at("b").As<float>(), 3.5f);
}

TEST(Safetensors, EveryLieIsNamed) {
  const auto one = [](const std::string& entry, size_t data = 8) {
    return OpenError(Safetensors("{\"a\":" + entry + "}", std::string(data, 'x')));
  };
  EXPECT_THAT(OpenError(""), HasSubstr("too short"));
  EXPECT_THAT(OpenError("GGUF\3\0\0\0 and so on"), HasSubstr("GGUF"));
  EXPECT_THAT(OpenError(std::string(8, '\xff') + "{}"), HasSubstr("header length"));
  EXPECT_THAT(OpenError(std::string("\x40\0\0\0\0\0\0\0{}", 10)), HasSubstr("truncated"));
  EXPECT_THAT(OpenError(Safetensors("{\"a\":", "")), HasSubstr("not valid JSON"));
  EXPECT_THAT(OpenError(Safetensors("[]", "")), HasSubstr("not a JSON object"));
  EXPECT_THAT(OpenError(Safetensors(std::string(5000, '['), "")), HasSubstr("not valid JSON"));
  EXPECT_THAT(one("7"), HasSubstr("expected an object"));
  EXPECT_THAT(one(R"({"dtype":"F4","shape":[2],"data_offsets":[0,8]})"), HasSubstr("dtype F4"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), HasSubstr("shape has -2"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})"), HasSubstr("shape has 2.5"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), HasSubstr("end before they begin"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"), HasSubstr("takes 12 bytes"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})"), HasSubstr("overflows"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2305843009213693953],"data_offsets":[0,4]})"), HasSubstr("overflows"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 7), HasSubstr("truncated"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 9), HasSubstr("after the last tensor"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), HasSubstr("belong to no tensor"));
  EXPECT_THAT(OpenError(Safetensors(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                    R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", std::string(8, 'x'))),
              HasSubstr("tensors a and b overlap"));
  EXPECT_THAT(OpenError(Safetensors(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                                    R"("a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", std::string(8, 'x'))),
              HasSubstr("listed twice"));
}

// Random damage to a good file never does worse than an error.
TEST(Safetensors, SurvivesRandomDamage) {
  std::mt19937 rng(1);
  const std::string good = Safetensors(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                       R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]}})",
                                       std::string(20, 'x'));
  ScratchDir dir;
  for (int round = 0; round < 2000; ++round) {
    std::string bad = good;
    for (int i = 0; i <= round % 4; ++i) bad[rng() % bad.size()] = static_cast<char>(rng());
    if (round % 3 == 0) bad.resize(rng() % bad.size());
    dir.Write("x.safetensors", bad);
    const auto file = SafetensorsFile::Open(dir.File("x.safetensors"));
    if (!file.ok()) continue;
    for (const auto& [name, view] : file->tensors()) {  // every byte that a view promises can be read
      volatile unsigned sum = 0;
      for (int64_t i = 0; i < view.bytes(); ++i) sum = sum + static_cast<unsigned>(view.data[i]);
    }
  }
}

TEST(Checkpoint, IndexFaultsAreNamed) {
  const std::string a = Safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x");
  const auto open = [](const ScratchDir& dir) {
    const auto checkpoint = Checkpoint::Open(dir.path().string());
    return checkpoint.ok() ? std::string() : checkpoint.error().message;
  };
  {
    ScratchDir dir;
    EXPECT_THAT(open(dir), HasSubstr("neither model.safetensors nor"));
    dir.Write("model.safetensors.index.json", R"({"weight_map":{"a":"1.safetensors"}})");
    EXPECT_THAT(open(dir), HasSubstr("shard is missing"));
    dir.Write("1.safetensors", a);
    EXPECT_EQ(open(dir), "");
    dir.Write("model_mtp.safetensors", Safetensors(R"({"m":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"));
    const auto with_mtp = Checkpoint::Open(dir.path().string());
    ASSERT_TRUE(with_mtp.ok());
    EXPECT_NE(with_mtp->Find("m"), nullptr);
  }
  ScratchDir dir;
  dir.Write("1.safetensors", a);
  for (const auto& [index, fault] :
       {std::pair{R"({"weight_map":{"a":"1.safetensors","b":"1.safetensors"}})", "tensor b is not in"},
        {R"({"weight_map":{"b":"1.safetensors"}})", "tensor a is not listed"},
        {R"({"weight_map":{"a":"../1.safetensors"}})", "expected a file beside"},
        {R"({"weight_map":{"a":7}})", "not a file name"},
        {R"({"weight_map":{}})", "is empty"},
        {R"({})", "expected an object with weight_map"},
        {"{", "not valid JSON"}}) {
    dir.Write("model.safetensors.index.json", index);
    EXPECT_THAT(open(dir), HasSubstr(fault));
  }
}

TEST(ConfigFields, NamesAllMissingAndAbsurdAtOnce) {
  auto fields = ConfigFields::Parse(R"({"b": -1, "c": "x", "list": [1, 2], "mode": "odd"})", "config.json");
  ASSERT_TRUE(fields.ok());
  fields->Int("a", 1, 10);
  fields->Int("b", 1, 10);
  fields->Number("c", 0, 1);
  fields->IntList("list", 3, 0, 9);
  fields->Int("z", 1, 10);
  fields->Only("mode", "\"even\"");
  const Status status = fields->Finish();
  ASSERT_FALSE(status.ok());
  for (const char* part :
       {"config.json: missing: a, z", "b is -1", "c is \"x\"", "list has 2 entries", "mode is \"odd\""}) {
    EXPECT_THAT(status.error().message, HasSubstr(part));
  }
}

}  // namespace
}  // namespace minimo
