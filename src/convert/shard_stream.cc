#include "convert/shard_stream.h"

#include <algorithm>

#include "base/error.h"
#include "base/thread_team.h"
#include "checkpoint/safetensors_writer.h"
#include "convert/block_writer.h"
#include "convert/part_encoder.h"

namespace minimo {
namespace {

// Of the source, given to all parts while a core's cache has them.
constexpr int64_t kScatterBytes = int64_t{256} << 10;
constexpr int64_t kBlocksBytes = int64_t{384} << 20;  // of all blocks that wait to be written
constexpr int64_t kAheadBytes = int64_t{256} << 20;   // of the source, asked for early

using Files = std::map<int, BlockFile>;  // of a rank

// The part of the source that a tensor is made from.
std::span<const std::byte> SourceOf(const ConvertedTensor& t) {
  if (t.kind == ConvertedTensor::Kind::kCopy) return {t.data, static_cast<size_t>(t.source.bytes())};
  return {t.weight.view.data, static_cast<size_t>(t.weight.view.rows * t.weight.view.row_bytes)};
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

constexpr bool kStopped = false;  // the queue has failed, which it tells itself, or `advance` says stop

// Bytes [at, at + piece.size()) of a tensor to the parts that have any of them:
//
//   row     |........|part.cols|...|     stride bytes a row
//   row + 1 |........|part.cols|...|     a piece begins and ends anywhere
bool Scatter(const ConvertedTensor& t, int64_t at, std::span<const std::byte> piece, Files* files, int64_t* appended) {
  const int64_t rows = t.SourceRows(), stride = t.source.bytes() / rows, end = at + static_cast<int64_t>(piece.size());
  const int64_t element = t.source.shape.size() == 2 ? stride / t.source.shape[1] : stride;
  for (const ConvertedTensor::Part& part : t.parts) {
    BlockFile& file = files->at(part.rank);
    const auto append = [&](int64_t begin, int64_t last) {
      begin = std::max(begin, at);
      last = std::min(last, end);
      if (begin >= last) return true;
      *appended += last - begin;
      return file.Append(piece.data() + (begin - at), static_cast<size_t>(last - begin));
    };
    const int64_t left = part.cols.begin * element, width = part.cols.count * element;
    if (width == stride) {
      if (!append(part.rows.begin * stride, part.rows.end() * stride)) return kStopped;
      continue;
    }
    const int64_t last_row = std::min(part.rows.end(), (end + stride - 1) / stride);
    for (int64_t row = std::max(part.rows.begin, at / stride); row < last_row; ++row) {
      if (!append(row * stride + left, row * stride + left + width)) return kStopped;
    }
  }
  return true;
}

Result<bool> StreamCopy(const ConvertedTensor& t, const SourceReader& reader,
                        const std::function<bool(int64_t)>& advance, Files* files) {
  int64_t at = 0;
  bool more = true;
  MINIMO_TRY(reader.Stream(t.data, t.source.bytes(), [&](std::span<const std::byte> piece) {
    while (more && !piece.empty()) {
      const std::span<const std::byte> next = piece.first(std::min(piece.size(), size_t{kScatterBytes}));
      int64_t appended = 0;
      more = Scatter(t, at, next, files, &appended) && advance(appended);
      at += static_cast<int64_t>(next.size());
      piece = piece.subspan(next.size());
    }
    return more;
  }));
  return more;
}

// Rows [row, end) of a weight that are encoded at a time, and where what a part has of them goes: its file's block, or
// `spill` if they do not fit there.
class Stretch {
 public:
  Stretch(const ConvertedTensor& t, const PartEncoder& encoder, Files* files)
      : encoder_(encoder), spill_(t.parts.size()) {
    for (const ConvertedTensor::Part& part : t.parts) files_.push_back(&files->at(part.rank));
  }

  // Whole bands from `row` on, as many as fit in every block, but one at least.
  int64_t Begin(int64_t row, int64_t rows) {
    int64_t end = rows;
    for (size_t i = 0; i < files_.size(); ++i) {
      const Range mine = encoder_.RowsOf(i, row, end);
      const int64_t fit = mine.count > 0 ? static_cast<int64_t>(files_[i]->Space().size()) / encoder_.RowBytes(i) : 0;
      if (fit < mine.count) end = (mine.begin + fit) / kBand * kBand;
    }
    end = std::max(end, std::min(rows, (row / kBand + 1) * kBand));
    parts_.clear();
    for (size_t i = 0; i < files_.size(); ++i) {
      const Range mine = encoder_.RowsOf(i, row, end);
      if (mine.count == 0) continue;
      const auto bytes = static_cast<size_t>(mine.count * encoder_.RowBytes(i));
      std::span<std::byte> space = files_[i]->Space();
      const bool fits = space.size() >= bytes;
      if (!fits) {
        spill_[i].resize(bytes);
        space = spill_[i];
      }
      parts_.push_back({i, mine.begin, space.first(bytes), fits});
    }
    return end;
  }

  std::byte* Out(size_t part, int64_t row) const {
    const auto found = std::lower_bound(parts_.begin(), parts_.end(), part,
                                        [](const InWork& p, size_t wanted) { return p.part < wanted; });
    return found->out.data() + (row - found->first_row) * encoder_.RowBytes(part);
  }

  bool Commit(int64_t* bytes) {
    for (const InWork& p : parts_) {
      *bytes += static_cast<int64_t>(p.out.size());
      BlockFile& file = *files_[p.part];
      if (!(p.fits ? file.Commit(p.out.size()) : file.Append(p.out.data(), p.out.size()))) return kStopped;
    }
    return true;
  }

 private:
  struct InWork {
    size_t part;
    int64_t first_row;
    std::span<std::byte> out;
    bool fits;
  };
  const PartEncoder& encoder_;
  std::vector<BlockFile*> files_;  // of each part
  std::vector<std::vector<std::byte>> spill_;
  std::vector<InWork> parts_;
};

// Rows [begin, end). Sums are added band by band, so that they do not depend on who took which.
Status EncodeBands(PartEncoder& encoder, const Stretch& stretch, int64_t begin, int64_t end, ThreadTeam& team,
                   double* sums) {
  const int64_t bands = (end - begin + kBand - 1) / kBand;
  std::vector<double> of_band(static_cast<size_t>(2 * bands));
  std::vector<Status> faults(static_cast<size_t>(bands));
  team.ParallelForDynamic(bands, [&](int64_t band) {
    const int64_t row = begin + band * kBand;
    const auto out = [&](size_t part, int64_t first_row) { return stretch.Out(part, first_row); };
    faults[band] = encoder.Encode(row, std::min(end, row + kBand), out, &of_band[2 * band]);
  });
  for (Status& fault : faults) MINIMO_TRY(std::move(fault));
  for (size_t i = 0; i < of_band.size(); ++i) sums[i % 2] += of_band[i];
  return {};
}

Result<bool> StreamEncoded(const ConvertedTensor& t, const SourceReader& reader, ThreadTeam& team,
                           const std::function<bool(int64_t)>& advance, Files* files, ErrorSums* errors) {
  PartEncoder encoder(t, reader);
  Stretch stretch(t, encoder, files);
  const size_t layer = t.layer >= 0 ? static_cast<size_t>(t.layer) : errors->size() / 2 - 1;
  const int64_t rows = t.SourceRows();
  for (int64_t row = 0; row < rows;) {
    const int64_t end = stretch.Begin(row, rows);
    MINIMO_TRY(EncodeBands(encoder, stretch, row, end, team, errors->data() + 2 * layer));
    int64_t bytes = 0;
    if (!stretch.Commit(&bytes) || !advance(bytes)) return kStopped;
    row = end;
  }
  for (size_t i = 0; i < t.parts.size(); ++i) {
    for (const std::vector<std::byte>& small : encoder.Small(i)) {
      if (!files->at(t.parts[i].rank).Append(small.data(), small.size())) return kStopped;
      if (!advance(static_cast<int64_t>(small.size()))) return kStopped;
    }
  }
  return true;
}

Result<bool> StreamAll(std::span<const ConvertedTensor> tensors, const SourceReader& reader, ThreadTeam& team,
                       const std::function<bool(int64_t)>& advance, Files* files, ErrorSums* errors) {
  size_t asked = 0;
  int64_t asked_bytes = 0, read_bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    for (; asked < tensors.size() && (asked == i || asked_bytes - read_bytes < kAheadBytes); ++asked) {
      PrefetchSource(tensors[asked], reader);
      asked_bytes += static_cast<int64_t>(SourceOf(tensors[asked]).size());
    }
    read_bytes += static_cast<int64_t>(SourceOf(tensors[i]).size());
    const bool copy = tensors[i].kind == ConvertedTensor::Kind::kCopy;
    MINIMO_ASSIGN(const bool whole, copy ? StreamCopy(tensors[i], reader, advance, files)
                                         : StreamEncoded(tensors[i], reader, team, advance, files, errors));
    if (!whole) return kStopped;
  }
  for (auto& [rank, file] : *files) {
    if (!file.Flush()) return kStopped;
  }
  return true;
}

Status CreateFiles(std::span<const OutputFile> outputs, std::span<const ConvertedTensor> tensors, WriteQueue& queue,
                   Files* files) {
  std::map<int, std::vector<TensorDeclaration>> declared;
  for (const ConvertedTensor& t : tensors) {
    for (const ConvertedTensor::Part& part : t.parts) {
      for (TensorDeclaration& d : t.Outputs(part)) declared[part.rank].push_back(std::move(d));
    }
  }
  for (const OutputFile& output : outputs) {
    MINIMO_ASSIGN(BlockFile file, BlockFile::Create(output.path, queue));
    const std::string header = SafetensorsHeader(declared[output.rank], output.metadata);
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
  Files files;
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
