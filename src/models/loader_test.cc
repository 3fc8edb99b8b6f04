// Whole checkpoints, spoiled one way at a time: every fault is named in one line; what is no fault loads.
#include <gmock/gmock.h>

#include <deque>
#include <nlohmann/json.hpp>

#include "models/kv_scale_grid.h"
#include "models/loader.h"
#include "ops/linear/linear.h"
#include "tests/support/scratch_dir.h"
#include "tests/support/shared.h"

namespace minimo {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ReadBytes;
using testing::RepoDir;
using testing::ScratchDir;

class LoaderTest : public ::testing::Test {
 protected:
  void Use(const char* nano) { dir_.CopyFrom(RepoDir() / "models" / nano); }
  std::string LoadError() const {
    const auto model = LoadModel(dir_.path().string());
    if (model.ok()) return "";
    EXPECT_THAT(model.error().message, Not(HasSubstr("\n")));
    return model.error().message;
  }
  void ChangeConfig(const std::function<void(json&)>& change) const {
    json config = json::parse(ReadBytes(dir_.File("config.json")));
    change(config);
    dir_.Write("config.json", config.dump());
  }
  // Rewrites the header of a shard (same length or shorter: padded with spaces).
  void ChangeHeader(const std::string& shard, const std::function<void(json&)>& change) const {
    std::string bytes = ReadBytes(dir_.File(shard));
    uint64_t size;
    std::memcpy(&size, bytes.data(), 8);
    json header = json::parse(bytes.substr(8, size));
    change(header);
    std::string text = header.dump();
    bytes.replace(8, size, text);
    size = text.size();
    std::memcpy(bytes.data(), &size, 8);
    dir_.Write(shard, bytes);
  }
  ScratchDir dir_;
};

constexpr const char* kShard = "model-00001-of-00002.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

TEST_F(LoaderTest, ConfigFaults) {
  Use("nano-minimax-m2");
  ChangeConfig([](json& c) {
    c.erase("rotary_dim");
    c.erase("num_local_experts");
    c["hidden_size"] = 0;
    c["rms_norm_eps"] = "small";
  });
  const std::string error = LoadError();
  EXPECT_THAT(error, HasSubstr("config.json: missing: rotary_dim, num_local_experts"));
  EXPECT_THAT(error, HasSubstr("hidden_size is 0"));
  EXPECT_THAT(error, HasSubstr("rms_norm_eps is \"small\""));
}

TEST_F(LoaderTest, ConfigsThatAreNotImplementedAreRefused) {
  for (const auto& [key, value] : {std::pair<const char*, json>{"hidden_act", "gelu"}, {"scoring_func", "softmax"},
                                   {"attn_type_list", {1, 0, 1, 1}}, {"shared_intermediate_size", 64},
                                   {"num_experts_per_tok", 17}, {"num_key_value_heads", 3}}) {
    ScratchDir dir;
    dir.CopyFrom(RepoDir() / "models" / "nano-minimax-m2");
    json config = json::parse(ReadBytes(dir.File("config.json")));
    config[key] = value;
    dir.Write("config.json", config.dump());
    const auto model = LoadModel(dir.path().string());
    ASSERT_FALSE(model.ok()) << key;
    EXPECT_THAT(model.error().message, HasSubstr(key));
  }
}

TEST_F(LoaderTest, FoldersThatAreNoCheckpoint) {
  EXPECT_THAT(LoadError(), HasSubstr("config.json is not there"));
  dir_.Write("m2.Q4_K.gguf", "GGUF");
  EXPECT_THAT(LoadError(), HasSubstr("a GGUF file"));
  EXPECT_THAT(LoadModel(dir_.File("m2.Q4_K.gguf")).error().message, HasSubstr("a GGUF file"));
  EXPECT_THAT(LoadModel(dir_.File("nowhere")).error().message, HasSubstr("no such folder"));
  dir_.Write("config.json", R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})");
  EXPECT_THAT(LoadError(), HasSubstr("model_type is \"llama\" (architecture \"LlamaForCausalLM\"), minimo runs"));
  dir_.Write("config.json", "{");
  EXPECT_THAT(LoadError(), HasSubstr("not valid JSON"));
}

TEST_F(LoaderTest, TensorFaultsAreAllNamed) {
  Use("nano-minimax-m2");
  const auto rename = [&](json& names) {
    names["model.layers.0.self_attn.qq_proj.weight"] = names["model.layers.0.self_attn.q_proj.weight"];
    names.erase("model.layers.0.self_attn.q_proj.weight");
  };
  ChangeHeader(kShard, [&](json& h) {
    rename(h);
    h["model.layers.0.input_layernorm.weight"]["shape"] = {96, 2};
    h["model.layers.1.self_attn.k_norm.weight"]["dtype"] = "I8";
    h["model.layers.1.self_attn.k_norm.weight"]["shape"] = {128};
  });
  json index = json::parse(ReadBytes(dir_.File(kIndex)));
  rename(index["weight_map"]);
  dir_.Write(kIndex, index.dump());
  const std::string error = LoadError();
  EXPECT_THAT(error, HasSubstr("missing tensors: model.layers.0.self_attn.q_proj.weight"));
  EXPECT_THAT(error, HasSubstr("model.layers.0.input_layernorm.weight: found shape [96, 2], expected [192]"));
  EXPECT_THAT(error, HasSubstr("model.layers.1.self_attn.k_norm.weight: found shape [128], expected [64]"));
  EXPECT_THAT(error, HasSubstr("model.layers.0.self_attn.qq_proj.weight"));  // the extra one, too
}

TEST_F(LoaderTest, MistypedTensorsAndLostScales) {
  Use("nano-minimax-m2");
  ChangeHeader(kShard, [](json& h) {
    h["model.layers.0.self_attn.q_norm.weight"]["dtype"] = "F16";  // readable: no fault
    h["model.norm_of_nobody.weight"] = h["model.layers.0.self_attn.q_proj.weight_scale_inv"];
    h.erase("model.layers.0.self_attn.q_proj.weight_scale_inv");
  });
  json index = json::parse(ReadBytes(dir_.File(kIndex)));
  index["weight_map"].erase("model.layers.0.self_attn.q_proj.weight_scale_inv");
  index["weight_map"]["model.norm_of_nobody.weight"] = kShard;
  dir_.Write(kIndex, index.dump());
  EXPECT_THAT(LoadError(), HasSubstr("missing tensors: model.layers.0.self_attn.q_proj.weight_scale_inv"));
}

TEST_F(LoaderTest, DamagedShards) {
  Use("nano-mimo-v2-flash");
  const std::string whole = ReadBytes(dir_.File(kShard));
  dir_.Write(kShard, whole.substr(0, whole.size() / 2));
  EXPECT_THAT(LoadError(), HasSubstr("truncated"));
  std::filesystem::remove(dir_.File(kShard));
  EXPECT_THAT(LoadError(), HasSubstr("shard is missing"));
  dir_.Write(kShard, "GGUF and more");
  EXPECT_THAT(LoadError(), HasSubstr("a GGUF file"));
}

TEST_F(LoaderTest, UnknownTensorsAndIncompleteMtpAreNoted) {
  Use("nano-mimo-v2-flash");
  const char* second = "model-00002-of-00002.safetensors";
  const std::string from = "model.mtp.layers.1.hnorm.weight", to = "model.rotary.inv_freq";
  const auto rename = [&](json& names) {
    names[to] = names[from];
    names.erase(from);
  };
  ChangeHeader(second, rename);
  json index = json::parse(ReadBytes(dir_.File(kIndex)));
  rename(index["weight_map"]);
  dir_.Write(kIndex, index.dump());
  const auto model = LoadModel(dir_.path().string());
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ(model->spec.mtp_layers, 0);
  ASSERT_EQ(model->notes.size(), 2u);
  EXPECT_THAT(model->notes[0], HasSubstr(to));
  EXPECT_THAT(model->notes[1], HasSubstr(from));
}

TEST_F(LoaderTest, MtpInItsOwnFile) {
  Use("nano-mimo-v2-flash");
  // All MTP tensors move to model_mtp.safetensors and out of the index, as the released checkpoint may have them.
  const auto checkpoint = Checkpoint::Open(dir_.path().string());
  ASSERT_TRUE(checkpoint.ok());
  std::vector<NamedTensor> mtp, rest;
  json index = json::parse(ReadBytes(dir_.File(kIndex)));
  for (const auto& [name, view] : checkpoint->tensors()) {
    (name.starts_with("model.mtp.") ? mtp : rest).push_back({name, view});
    if (name.starts_with("model.mtp.")) index["weight_map"].erase(name);
    else index["weight_map"][name] = "all.safetensors";
  }
  ScratchDir other;
  ASSERT_TRUE(WriteSafetensors(other.File("all.safetensors"), rest).ok());
  ASSERT_TRUE(WriteSafetensors(other.File("model_mtp.safetensors"), mtp).ok());
  other.Write(kIndex, index.dump());
  other.Write("config.json", ReadBytes(dir_.File("config.json")));
  const auto model = LoadModel(other.path().string());
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ(model->spec.mtp_layers, 3);
  EXPECT_TRUE(model->notes.empty());
}

// As compressed-tensors writes FP8 blocks: weight_scale in bf16 or float32 (check_compressed_tensors.py has its files).
TEST_F(LoaderTest, BlockScalesUnderTheirOtherName) {
  Use("nano-minimax-m2");
  const auto checkpoint = Checkpoint::Open(dir_.path().string());
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  const Shape grid = checkpoint->Find(q + "_scale_inv")->shape;
  const auto load = [&](DType dtype, const Shape& shape_of_q, bool both, ScratchDir* out) {
    std::vector<NamedTensor> tensors;
    std::deque<std::vector<Bf16>> rounded;
    for (const auto& [name, view] : checkpoint->tensors()) {
      const size_t end = name.rfind("_inv");
      if (end == std::string::npos || both) tensors.push_back({name, view});
      if (end == std::string::npos) continue;
      TensorView other = view;
      if (dtype == DType::kBf16) {
        rounded.emplace_back();
        for (int64_t i = 0; i < NumElements(view.shape); ++i) rounded.back().push_back(ToBf16(view.As<float>()[i]));
        other = {DType::kBf16, view.shape, reinterpret_cast<const std::byte*>(rounded.back().data())};
      }
      if (name == q + "_scale_inv") other.shape = shape_of_q;
      tensors.push_back({name.substr(0, end), other});
    }
    EXPECT_TRUE(WriteSafetensors(out->File("model.safetensors"), tensors).ok());
    out->Write("config.json", ReadBytes(dir_.File("config.json")));
    return LoadModel(out->path().string());
  };
  const auto released = LoadModel(dir_.path().string());
  const WeightView& want = released->weights.layers[1].q.view;
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    ScratchDir out;
    const auto model = load(dtype, grid, false, &out);
    ASSERT_TRUE(model.ok()) << model.error().message;
    EXPECT_TRUE(model->notes.empty());
    const WeightView& got = model->weights.layers[1].q.view;
    for (int64_t i = 0; i < NumElements(grid); ++i) {
      ASSERT_EQ(got.scales[i], dtype == DType::kF32 ? want.scales[i] : ToFloat(ToBf16(want.scales[i])));
    }
  }
  ScratchDir rows, both;
  EXPECT_THAT(load(DType::kF32, {NumElements(grid), 1}, false, &rows).error().message,
              HasSubstr(q + "_scale: found F32 [" + std::to_string(NumElements(grid)) +
                        ", 1], minimo reads scales of 128x128 blocks, F32 or BF16 " + ToString(grid)));
  const auto released_too = load(DType::kBf16, grid, true, &both);
  ASSERT_TRUE(released_too.ok());
  EXPECT_EQ(released_too->weights.layers[1].q.view.scales[0], want.scales[0]);
}

TEST(Loader, WeightsAreTheMappingItself) {
  const auto model = LoadModel((RepoDir() / "models" / "nano-minimax-m2").string());
  ASSERT_TRUE(model.ok());
  const auto mapped = [&](const Weight& w) {
    for (const SafetensorsFile& shard : model->checkpoint->shards())
      for (const auto& [name, view] : shard.tensors())
        if (view.data == w.view.data) return true;
    return false;
  };
  EXPECT_TRUE(mapped(model->weights.embedding));
  EXPECT_TRUE(mapped(model->weights.layers[1].q));
  EXPECT_TRUE(mapped(model->weights.layers[3].experts[15].down));
}

TEST_F(LoaderTest, FourBitConfigsThatCannotBeReadAreRefused) {
  Use("nano-minimax-m2");
  const json readable = {{"num_bits", 4}, {"type", "int"}, {"symmetric", true}, {"strategy", "group"},
                         {"group_size", 32}, {"actorder", nullptr}};
  const auto error_with = [&](const char* key, const json& value) {
    ChangeConfig([&](json& c) {
      json weights = readable;
      weights[key] = value;
      c["quantization_config"] = {{"quant_method", "compressed-tensors"}, {"format", "pack-quantized"},
                                  {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}}};
    });
    return LoadError();
  };
  EXPECT_EQ(error_with("group_size", 128), "");
  EXPECT_EQ(error_with("actorder", "static"), "");  // orders the calibration alone
  EXPECT_THAT(error_with("num_bits", 8), HasSubstr("config_groups.group_0.weights.num_bits is 8, minimo reads 4"));
  EXPECT_THAT(error_with("symmetric", false), HasSubstr("symmetric is false, minimo reads symmetric weights alone"));
  EXPECT_THAT(error_with("strategy", "channel"), HasSubstr("strategy is \"channel\", minimo reads \"group\""));
  EXPECT_THAT(error_with("group_size", 16), HasSubstr("group_size is 16, minimo reads 32, 64 or 128"));
  EXPECT_THAT(error_with("actorder", "group"), HasSubstr("actorder is \"group\", minimo reads groups of neighbouring"));
  EXPECT_THAT(error_with("type", "float"), HasSubstr("strategy is \"group\", minimo reads \"block\""));
  EXPECT_THAT(error_with("type", "float"), HasSubstr("num_bits is 4, minimo reads 8 (e4m3 in 128x128 blocks)"));
  for (const auto& [config, says] :
       {std::pair<json, const char*>{{{"quant_method", "awq"}, {"bits", 4}}, "quant_method is \"awq\", minimo reads"},
        {{{"quant_method", "gptq"}, {"bits", 4}}, "quant_method is \"gptq\", minimo reads"},
        {{{"quant_method", "mxfp4"}}, "quant_method is \"mxfp4\", minimo reads"},
        {{{"quant_method", "compressed-tensors"}, {"format", "nvfp4-pack-quantized"}},
         "format is \"nvfp4-pack-quantized\", minimo reads \"pack-quantized\", \"float-quantized\""}}) {
    ChangeConfig([&, &config = config](json& c) { c["quantization_config"] = config; });
    EXPECT_THAT(LoadError(), HasSubstr(says));
  }
}

// Matrices that the compressed-tensors package has packed (tests/python/check_compressed_tensors.py writes the file).
TEST(FourBits, AreReadAsCompressedTensorsWritesThem) {
  const json data = json::parse(ReadBytes((RepoDir() / "tests/data/compressed_tensors_int4.json").string()));
  for (const json& one : data["cases"]) {
    const std::vector<int32_t> packed = one["packed"];
    std::vector<Bf16> scales;
    for (const int bits : one["scale_bits"]) scales.push_back({static_cast<uint16_t>(bits)});
    WeightView w;
    w.format = WeightFormat::kInt4Group;
    w.rows = one["rows"];
    w.cols = one["cols"];
    w.group_size = one["group"];
    w.data = reinterpret_cast<const std::byte*>(packed.data());
    w.row_bytes = w.cols / 2;
    w.group_scales = scales.data();
    w.scale_stride = w.cols / w.group_size;
    for (int64_t i = 0; i < w.rows * w.cols; ++i) {
      ASSERT_EQ(ToBf16(Dequantize(w, i / w.cols, i % w.cols)).bits, static_cast<uint16_t>(one["unpacked_bits"][i]));
    }
  }
}

// The drawing in kv_scale_grid.h, row by row.
TEST(KvScaleGrid, RunsOnFromKeysIntoValues) {
  AttentionSpec a;
  a.kv_heads = 4;
  a.head_dim = 192;
  a.v_head_dim = 128;
  EXPECT_TRUE(HasFusedKvScales(a, 8));
  EXPECT_FALSE(HasFusedKvScales(a, 6));  // plain: 768 rows are 6 blocks
  EXPECT_EQ(FusedValueScaleRows(a), 4);
  const auto k = FusedKeyRows(a), v = FusedValueRows(a);
  ASSERT_EQ(k.size(), 768u);
  ASSERT_EQ(v.size(), 512u);
  for (int h = 0; h < 4; ++h) {
    EXPECT_EQ(k[h * 192 + 0], 2 * h);
    EXPECT_EQ(k[h * 192 + 127], 2 * h);
    EXPECT_EQ(k[h * 192 + 128], 2 * h + 1);
    EXPECT_EQ(k[h * 192 + 191], 2 * h + 1);
    EXPECT_EQ(v[h * 128 + 0], 2 * h + 1);  // the tail block of K
    EXPECT_EQ(v[h * 128 + 63], 2 * h + 1);
    EXPECT_EQ(v[h * 128 + 64], 8 + h);     // v_scale[h], stacked below the 8 rows of k_scale
    EXPECT_EQ(v[h * 128 + 127], 8 + h);
  }
  a.kv_heads = 8;
  EXPECT_FALSE(HasFusedKvScales(a, 12));  // the sliding layers' plain grid
}

}  // namespace
}  // namespace minimo
