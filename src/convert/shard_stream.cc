#include "convert/shard_stream.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/thread_team.h"
#include "checkpoint/safetensors_writer.h"
#include "convert/block_writer.h"
#include "convert/encode.h"
#include "models/w4_config.h"

namespace minimo {
namespace {

constexpr int64_t kChunkBytes = int64_t{16} << 20;   // gathered at a time
constexpr int64_t kBlocksBytes = int64_t{384} << 20;  // of all blocks that wait to be written
constexpr int64_t kAheadBytes = int64_t{256} << 20;   // of the source, asked for early
constexpr int64_t kBand = kScaleBlock;                // rows a member reads at a time: one row of scale blocks
constexpr int64_t kStrip = 8;                         // and encodes, where no scale spans rows: some 200 KB of float32
static_assert(kW4Group == kInt4Group);

// What rows [0, rows) of a strided matrix cover in the source.
int64_t SpanBytes(int64_t rows, int64_t stride, int64_t row_bytes) {
  return rows > 0 ? (rows - 1) * stride + row_bytes : 0;
}

int64_t UsedRowBytes(const WeightView& view) { return (view.cols * view.ElementBits() + 7) / 8; }

// The part of the source that a tensor is made from.
std::span<const std::byte> SourceOf(const ConvertedTensor& t) {
  const WeightView& view = t.weight.view;
  const int64_t bytes = t.kind == ConvertedTensor::Kind::kCopy
                            ? SpanBytes(t.source.rows, t.source.stride, t.source.row_bytes)
                            : SpanBytes(view.rows, view.row_bytes, UsedRowBytes(view));
  return {t.kind == ConvertedTensor::Kind::kCopy ? t.source.data : view.data, static_cast<size_t>(bytes)};
}

// Its scales too, which are read where they are mapped: a fault would wait behind the large reads.
void PrefetchSource(const ConvertedTensor& t, const SourceReader& reader) {
  const std::span<const std::byte> source = SourceOf(t);
  reader.Prefetch(source.data(), static_cast<int64_t>(source.size()));
  const WeightView& view = t.weight.view;
  if (t.kind == ConvertedTensor::Kind::kCopy || view.rows == 0) return;
  const auto ask = [&](const auto* first, const auto* last) {
    const auto* const begin = reinterpret_cast<const std::byte*>(first);
    const auto* const end = reinterpret_cast<const std::byte*>(last + view.scale_stride);
    if (end > begin) reader.Prefetch(begin, end - begin);
  };
  if (view.scales) ask(view.ScaleRow(0), view.ScaleRow(view.rows - 1));
  if (view.group_scales) ask(view.group_scales, view.group_scales + (view.rows - 1) * view.scale_stride);
}

// Encodes rows of one weight; keeps the small tensors (scales) that follow the streamed one.
class Encoder {
 public:
  Encoder(const ConvertedTensor& t, const SourceReader& reader) : tensor_(t), view_(t.weight.view), reader_(reader) {
    for (size_t i = 1; i < t.outputs.size(); ++i) small_.emplace_back(static_cast<size_t>(t.outputs[i].bytes()));
    if (t.kind == ConvertedTensor::Kind::kInt4) {
      const int64_t shape[] = {view_.rows, view_.cols};
      std::memcpy(small_[1].data(), shape, sizeof shape);
    }
  }

  int64_t RowBytes() const { return tensor_.outputs[0].bytes() / std::max<int64_t>(view_.rows, 1); }

  // Rows [begin, end) of one band into `out`; adds to error and norm.
  Status Band(int64_t begin, int64_t end, std::byte* out, double* error, double* norm) {
    thread_local std::vector<float> values, back;
    thread_local std::vector<std::byte> bytes;
    const int64_t strip = tensor_.kind == ConvertedTensor::Kind::kFp8 ? kBand : kStrip;
    values.resize(static_cast<size_t>(strip * view_.cols));
    back.resize(values.size());
    WeightView band = view_.SliceRows(begin, end - begin);
    bytes.resize(static_cast<size_t>(SpanBytes(band.rows, view_.row_bytes, UsedRowBytes(view_))));
    MINIMO_TRY(reader_.Read(band.data, static_cast<int64_t>(bytes.size()), bytes.data()));
    band.data = bytes.data();
    for (int64_t r = 0; r < band.rows; r += strip, out += strip * RowBytes()) {
      const int64_t count = std::min(strip, band.rows - r);
      DecodeRows(band, r, r + count, values.data());
      Encode(begin + r, count, values.data(), out);
      DecodeRows(EncodedView(begin + r, count, out), 0, count, back.data());
      AddSquares(values.data(), back.data(), count * view_.cols, error, norm);
    }
    return {};
  }

  const std::vector<std::vector<std::byte>>& small() const { return small_; }

 private:
  void Encode(int64_t row, int64_t count, const float* values, std::byte* out) {
    switch (tensor_.kind) {
      case ConvertedTensor::Kind::kCopy: break;
      case ConvertedTensor::Kind::kBf16: EncodeBf16(values, count * view_.cols, reinterpret_cast<Bf16*>(out)); break;
      case ConvertedTensor::Kind::kFp8:
        EncodeFp8Band(values, count, view_.cols, reinterpret_cast<Fp8E4M3*>(out), Fp8Scales(row));
        break;
      case ConvertedTensor::Kind::kInt4:
        EncodeInt4(values, count * (view_.cols / kW4Group), reinterpret_cast<uint8_t*>(out), Int4Scales(row));
        break;
    }
  }
  float* Fp8Scales(int64_t row) {
    return reinterpret_cast<float*>(small_[0].data()) + row / kScaleBlock * tensor_.outputs[1].shape[1];
  }
  Bf16* Int4Scales(int64_t row) {
    return reinterpret_cast<Bf16*>(small_[0].data()) + row * tensor_.outputs[1].shape[1];
  }
  WeightView EncodedView(int64_t row, int64_t count, const std::byte* out) {
    WeightView v;
    v.rows = count;
    v.cols = view_.cols;
    v.data = out;
    v.row_bytes = RowBytes();
    v.format = WeightFormat::kBf16;
    if (tensor_.kind == ConvertedTensor::Kind::kFp8) {
      v.format = WeightFormat::kFp8Block;
      v.scales = Fp8Scales(row);
      v.scale_stride = tensor_.outputs[1].shape[1];
    } else if (tensor_.kind == ConvertedTensor::Kind::kInt4) {
      v.format = WeightFormat::kInt4Group;
      v.group_scales = Int4Scales(row);
      v.scale_stride = tensor_.outputs[1].shape[1];
      v.group_size = kW4Group;
    }
    return v;
  }

  const ConvertedTensor& tensor_;
  const WeightView& view_;
  const SourceReader& reader_;
  std::vector<std::vector<std::byte>> small_;
};

// Where a tensor's bytes go: its file, and whom to tell.
struct Sink {
  BlockFile& file;
  const std::function<bool(int64_t)>& advance;

  bool Append(const std::byte* data, int64_t bytes) {
    return file.Append(data, static_cast<size_t>(bytes)) && advance(bytes);
  }
};

constexpr bool kStopped = false;  // the queue has failed, which it tells itself, or `advance` says stop

Result<bool> StreamCopy(const ConvertedTensor::Rows& source, const SourceReader& reader, Sink sink) {
  if (source.row_bytes == source.stride) {
    for (int64_t at = 0, total = source.rows * source.row_bytes; at < total;) {
      const std::span<std::byte> space = sink.file.Space();
      const int64_t bytes = std::min(static_cast<int64_t>(space.size()), total - at);
      MINIMO_TRY(reader.Read(source.data + at, bytes, space.data()));
      if (!sink.file.Commit(static_cast<size_t>(bytes)) || !sink.advance(bytes)) return kStopped;
      at += bytes;
    }
    return true;
  }
  const int64_t step = std::max<int64_t>(1, kChunkBytes / source.stride);
  std::vector<std::byte> rows_read;
  for (int64_t row = 0; row < source.rows; row += step) {
    const int64_t rows = std::min(step, source.rows - row), span = SpanBytes(rows, source.stride, source.row_bytes);
    rows_read.resize(static_cast<size_t>(span));
    MINIMO_TRY(reader.Read(source.data + row * source.stride, span, rows_read.data()));
    for (int64_t r = 0; r < rows; ++r) {
      const std::byte* from = rows_read.data() + r * source.stride;
      if (!sink.file.Append(from, static_cast<size_t>(source.row_bytes))) return kStopped;
    }
    if (!sink.advance(rows * source.row_bytes)) return kStopped;
  }
  return true;
}

// Rows [begin, end) into `out`. Sums are added band by band, so that they do not depend on who took which.
Status EncodeBands(Encoder& encoder, int64_t begin, int64_t end, ThreadTeam& team, std::byte* out, double* sums) {
  const int64_t bands = (end - begin + kBand - 1) / kBand;
  std::vector<double> of_band(static_cast<size_t>(2 * bands));
  std::vector<Status> faults(static_cast<size_t>(bands));
  team.ParallelForDynamic(bands, [&](int64_t band) {
    const int64_t row = begin + band * kBand;
    faults[band] = encoder.Band(row, std::min(end, row + kBand), out + band * kBand * encoder.RowBytes(),
                                &of_band[2 * band], &of_band[2 * band + 1]);
  });
  for (Status& fault : faults) MINIMO_TRY(std::move(fault));
  for (size_t i = 0; i < of_band.size(); ++i) sums[i % 2] += of_band[i];
  return {};
}

// Whole bands straight into the file's block while they fit there, one that does not by way of `spill`.
Result<bool> StreamEncoded(const ConvertedTensor& t, const SourceReader& reader, ThreadTeam& team, Sink sink,
                           ErrorSums* errors) {
  Encoder encoder(t, reader);
  const int64_t rows = t.weight.view.rows, row_bytes = encoder.RowBytes();
  const size_t layer = t.layer >= 0 ? static_cast<size_t>(t.layer) : errors->size() / 2 - 1;
  std::vector<std::byte> spill;
  for (int64_t row = 0; row < rows;) {
    const std::span<std::byte> space = sink.file.Space();
    const int64_t fit = std::min(rows - row, static_cast<int64_t>(space.size()) / row_bytes);
    const bool fits = fit >= std::min(kBand, rows - row);
    const int64_t end = !fits ? std::min(rows, row + kBand) : row + fit == rows ? rows : row + fit / kBand * kBand;
    if (!fits) spill.resize(static_cast<size_t>((end - row) * row_bytes));
    std::byte* const out = fits ? space.data() : spill.data();
    MINIMO_TRY(EncodeBands(encoder, row, end, team, out, errors->data() + 2 * layer));
    const int64_t bytes = (end - row) * row_bytes;
    if (fits ? !sink.file.Commit(static_cast<size_t>(bytes)) || !sink.advance(bytes) : !sink.Append(out, bytes)) {
      return kStopped;
    }
    row = end;
  }
  for (const auto& small : encoder.small()) {
    if (!sink.Append(small.data(), static_cast<int64_t>(small.size()))) return kStopped;
  }
  return true;
}

Result<bool> StreamAll(std::span<const ConvertedTensor> tensors, const SourceReader& reader, ThreadTeam& team,
                       const std::function<bool(int64_t)>& advance, std::map<int, BlockFile>* files,
                       ErrorSums* errors) {
  size_t asked = 0;
  int64_t asked_bytes = 0, read_bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    for (; asked < tensors.size() && (asked == i || asked_bytes - read_bytes < kAheadBytes); ++asked) {
      PrefetchSource(tensors[asked], reader);
      asked_bytes += static_cast<int64_t>(SourceOf(tensors[asked]).size());
    }
    read_bytes += static_cast<int64_t>(SourceOf(tensors[i]).size());
    const Sink sink{files->at(tensors[i].rank), advance};
    const bool copy = tensors[i].kind == ConvertedTensor::Kind::kCopy;
    MINIMO_ASSIGN(const bool whole, copy ? StreamCopy(tensors[i].source, reader, sink)
                                         : StreamEncoded(tensors[i], reader, team, sink, errors));
    if (!whole) return kStopped;
  }
  for (auto& [rank, file] : *files) {
    if (!file.Flush()) return kStopped;
  }
  return true;
}

Status CreateFiles(std::span<const OutputFile> outputs, std::span<const ConvertedTensor> tensors, WriteQueue& queue,
                   std::map<int, BlockFile>* files) {
  for (const OutputFile& output : outputs) {
    std::vector<TensorDeclaration> declarations;
    for (const ConvertedTensor& t : tensors) {
      if (t.rank == output.rank) declarations.insert(declarations.end(), t.outputs.begin(), t.outputs.end());
    }
    MINIMO_ASSIGN(BlockFile file, BlockFile::Create(output.path, queue));
    const std::string header = SafetensorsHeader(declarations, output.metadata);
    (void)file.Append(reinterpret_cast<const std::byte*>(header.data()), header.size());  // the queue tells
    files->emplace(output.rank, std::move(file));
  }
  return {};
}

}  // namespace

Status WriteConvertedFiles(std::span<OutputFile> outputs, std::span<const ConvertedTensor> tensors,
                           const SourceReader& reader, ThreadTeam& team, const std::function<bool(int64_t)>& advance,
                           ErrorSums* errors) {
  const int64_t blocks = static_cast<int64_t>(outputs.size()) + 6;
  const int64_t block = std::clamp(kBlocksBytes / blocks, int64_t{1} << 20, int64_t{8} << 20) / kBlockAlignment;
  WriteQueue queue(static_cast<size_t>(block) * kBlockAlignment);
  std::map<int, BlockFile> files;
  Result<bool> whole = true;
  const Status created = CreateFiles(outputs, tensors, queue, &files);
  if (created.ok()) whole = StreamAll(tensors, reader, team, advance, &files, errors);
  MINIMO_TRY(queue.Close());  // before any file goes
  MINIMO_TRY(created);
  MINIMO_ASSIGN(const bool finished, std::move(whole));
  if (!finished) return Errorf("{}: stopped; the same command goes on from the last whole file", outputs.front().path);
  for (OutputFile& output : outputs) {
    BlockFile& file = files.at(output.rank);
    MINIMO_TRY(file.Finish());
    output.bytes = file.bytes();
    output.xxh3 = file.checksum();
  }
  return {};
}

}  // namespace minimo
