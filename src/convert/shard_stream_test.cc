// Tensors larger than a block and a piece, written whole and in parts: every part's file has its rows and columns.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/thread_team.h"
#include "checkpoint/safetensors.h"
#include "convert/shard_stream.h"
#include "tests/support/scratch_dir.h"

namespace minimo {
namespace {

using Kind = ConvertedTensor::Kind;
using Part = ConvertedTensor::Part;
using testing::Safetensors;
using testing::ScratchDir;

constexpr int64_t kRows = 3968, kCols = 2304;  // 9.1 MB of FP8, 18.3 of bf16: more than a block
constexpr const char* kName = "a.weight";

// Rows and columns for one rank alone, for ranks that part the rows, some twice (replicated heads), and that part the
// columns.
const std::vector<std::vector<Part>> kLayouts = {
    {{0, {0, kRows}, {0, kCols}}},
    {{0, {0, 1920}, {0, kCols}}, {1, {0, 1920}, {0, kCols}}, {3, {1920, kRows - 1920}, {0, kCols}}},
    {{0, {0, kRows}, {0, 128}}, {2, {0, kRows}, {128, 1152}}, {3, {0, kRows}, {1280, 1024}}},
    {{1, {128, 2944}, {256, 2048}}},
};

struct Source {
  ScratchDir dir;
  Checkpoint checkpoint;
  std::vector<float> scales = std::vector<float>((kRows / 128) * (kCols / 128));

  Source() {
    std::mt19937 rng(3);
    std::string codes(kRows * kCols, '\0');
    for (char& c : codes) c = static_cast<char>((rng() % 0x7f) | (rng() & 0x80));  // finite
    for (float& s : scales) s = static_cast<float>(rng() % 1000 + 1) * 1e-4f;
    dir.Write("model.safetensors",
              Safetensors(R"({"a.weight":{"dtype":"F8_E4M3","shape":[3968,2304],"data_offsets":[0,9142272]},)"
                          R"("b":{"dtype":"U8","shape":[100],"data_offsets":[9142272,9142372]}})",
                          codes + std::string(100, 'b')));
    checkpoint = Checkpoint::Open(dir.path().string()).value();
  }

  // A large tensor and a small one after it, which every rank has whole.
  std::vector<ConvertedTensor> Tensors(Kind kind, const std::vector<Part>& parts) const {
    std::vector<ConvertedTensor> both(2);
    both[0].kind = kind;
    both[0].layer = 0;
    both[0].source = {kName, DType::kF8E4M3, {kRows, kCols}};
    both[0].data = checkpoint.Find(kName)->data;
    WeightView& view = both[0].weight.view;
    view.format = WeightFormat::kFp8Block;
    view.rows = kRows;
    view.cols = view.row_bytes = kCols;
    view.data = both[0].data;
    view.scales = scales.data();
    view.scale_stride = kCols / 128;
    both[0].parts = parts;
    both[1].source = {"b", DType::kU8, {100}};
    both[1].data = checkpoint.Find("b")->data;
    for (const Part& part : parts) both[1].parts.push_back({part.rank, {0, 100}, {0, 1}});
    return both;
  }
};

struct Written {
  ScratchDir dir;
  std::map<int, SafetensorsFile> files;
  ErrorSums sums = ErrorSums(4);

  // Of rows [row, row + rows) of a tensor, bytes [begin, begin + count).
  std::string Bytes(int rank, const std::string& name, int64_t row, int64_t rows, int64_t begin, int64_t count) const {
    const TensorView& view = files.at(rank).tensors().at(name);
    const int64_t stride = view.bytes() / view.shape[0];
    std::string bytes;
    for (int64_t r = row; r < row + rows; ++r) {
      bytes.append(reinterpret_cast<const char*>(view.data) + r * stride + begin, static_cast<size_t>(count));
    }
    return bytes;
  }
};

void Write(const Source& source, Kind kind, const std::vector<Part>& parts, Written* out) {
  const auto reader = SourceReader::Open(source.checkpoint);
  ThreadTeam team(2);
  std::vector<OutputFile> outputs;
  for (const Part& part : parts) outputs.push_back({part.rank, out->dir.File("r" + std::to_string(part.rank)), {}});
  const std::vector<ConvertedTensor> tensors = source.Tensors(kind, parts);
  int64_t advanced = 0, bytes = 0;
  const auto advance = [&](int64_t more) {
    advanced += more;
    return true;
  };
  const Status status = WriteConvertedFiles(outputs, tensors, *reader, team, advance, &out->sums);
  ASSERT_TRUE(status.ok()) << status.error().message;
  for (const ConvertedTensor& t : tensors) {
    for (const Part& part : t.parts) {
      for (const TensorDeclaration& d : t.Outputs(part)) bytes += d.bytes();
    }
  }
  EXPECT_EQ(advanced, bytes);
  for (const OutputFile& file : outputs) out->files.emplace(file.rank, SafetensorsFile::Open(file.path).value());
}

TEST(WriteConvertedFiles, PartsAreRowsAndColumnsOfTheWhole) {
  const Source source;
  for (const Kind kind : {Kind::kCopy, Kind::kBf16, Kind::kFp8, Kind::kInt4}) {
    Written whole;
    Write(source, kind, kLayouts[0], &whole);
    if (kind == Kind::kCopy) {
      ASSERT_TRUE(std::equal(source.checkpoint.Find(kName)->data, source.checkpoint.Find(kName)->data + kRows * kCols,
                             whole.files.at(0).tensors().at(kName).data));
    }
    const auto first = source.Tensors(kind, kLayouts[0])[0].Outputs(kLayouts[0][0]);
    for (size_t layout = 1; layout < kLayouts.size(); ++layout) {
      Written ranks;
      Write(source, kind, kLayouts[layout], &ranks);
      for (const Part& part : kLayouts[layout]) {
        SCOPED_TRACE(::testing::Message()
                     << "kind " << static_cast<int>(kind) << " layout " << layout << " rank " << part.rank);
        EXPECT_EQ(ranks.Bytes(part.rank, "b", 0, 100, 0, 1), std::string(100, 'b'));
        for (size_t i = 0; i < std::min<size_t>(first.size(), 2); ++i) {  // not the shape of int4
          const int64_t rows = kRows / first[i].shape[0], bytes = first[i].bytes() / first[i].shape[0];
          const auto columns = [&](int64_t cols) { return cols * bytes / kCols; };
          EXPECT_TRUE(ranks.Bytes(part.rank, first[i].name, 0, part.rows.count / rows, 0, columns(part.cols.count)) ==
                      whole.Bytes(0, first[i].name, part.rows.begin / rows, part.rows.count / rows,
                                  columns(part.cols.begin), columns(part.cols.count)))
              << first[i].name;
        }
      }
      if (kind != Kind::kCopy && layout == 2) {  // every element once: the same error
        EXPECT_NEAR(ranks.sums[0], whole.sums[0], whole.sums[0] * 1e-9);
        EXPECT_NEAR(ranks.sums[1], whole.sums[1], whole.sums[1] * 1e-9);
      }
    }
  }
}

}  // namespace
}  // namespace minimo
