#include "convert/shard_stream.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/thread_team.h"
#include "convert/encode.h"
#include "models/w4_config.h"

namespace minimo {
namespace {

constexpr int64_t kBlockBytes = int64_t{16} << 20;  // of output, encoded and written at a time
constexpr int64_t kBand = kScaleBlock;              // rows a member encodes at a time: one row of scale blocks

// Tells the kernel about source bytes: wanted soon, or done with, so that mapped pages do not pile up.
void Advise(const std::byte* data, int64_t bytes, int advice) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(data) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

void AdviseSource(const ConvertedTensor& t, int advice) {
  if (!t.mapped) return;
  if (t.kind == ConvertedTensor::Kind::kCopy) {
    Advise(t.source.data, t.source.rows * t.source.stride, advice);
  } else {
    Advise(t.weight.view.data, t.weight.view.rows * t.weight.view.row_bytes, advice);
  }
}

// Encodes rows of one weight; keeps the small tensors (scales) that follow the streamed one.
class Encoder {
 public:
  explicit Encoder(const ConvertedTensor& t) : tensor_(t), view_(t.weight.view) {
    for (size_t i = 1; i < t.outputs.size(); ++i) small_.emplace_back(static_cast<size_t>(t.outputs[i].bytes()));
    if (t.kind == ConvertedTensor::Kind::kInt4) {
      const int64_t shape[] = {view_.rows, view_.cols};
      std::memcpy(small_[1].data(), shape, sizeof shape);
    }
  }

  int64_t RowBytes() const { return tensor_.outputs[0].bytes() / std::max<int64_t>(view_.rows, 1); }

  // Rows [begin, end) into `out`, begin a multiple of kBand; adds to error and norm if they are wanted.
  void Rows(int64_t begin, int64_t end, std::byte* out, double* error, double* norm) {
    thread_local std::vector<float> values, back;
    values.resize(static_cast<size_t>(kBand * view_.cols));
    for (int64_t row = begin; row < end; row += kBand, out += kBand * RowBytes()) {
      const int64_t count = std::min(kBand, end - row);
      DecodeRows(view_, row, row + count, values.data());
      Encode(row, count, values.data(), out);
      back.resize(values.size());
      WeightView made = EncodedView(row, count, out);
      DecodeRows(made, 0, count, back.data());
      double e = 0, n = 0;
      for (int64_t i = 0; i < count * view_.cols; ++i) {
        const double d = double{back[i]} - values[i];
        e += d * d;
        n += double{values[i]} * values[i];
      }
      *error += e;
      *norm += n;
    }
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
        for (int64_t r = 0; r < count; ++r) {
          EncodeInt4Row(values + r * view_.cols, view_.cols, kW4Group, reinterpret_cast<uint8_t*>(out) + r * RowBytes(),
                        Int4Scales(row + r));
        }
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
  std::vector<std::vector<std::byte>> small_;
};

}  // namespace

WriteQueue::WriteQueue() : thread_([this] { Loop(); }) {}

WriteQueue::~WriteQueue() { (void)Close(); }

bool WriteQueue::Push(SafetensorsWriter& writer, std::vector<std::byte> block) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.size() < kDepth || !status_.ok(); });
  if (!status_.ok()) return false;
  queue_.push_back({&writer, std::move(block)});
  changed_.notify_all();
  return true;
}

std::vector<std::byte> WriteQueue::TakeBlock(size_t bytes) {
  std::vector<std::byte> block;
  {
    std::lock_guard lock(mutex_);
    if (!spare_.empty()) {
      block = std::move(spare_.back());
      spare_.pop_back();
    }
  }
  block.resize(bytes);
  return block;
}

Status WriteQueue::Close() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  return status_;
}

void WriteQueue::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return !queue_.empty() || closing_; });
    if (queue_.empty()) return;
    Item item = std::move(queue_.front());
    lock.unlock();
    Status written = item.writer->Append(item.block.data(), item.block.size());
    lock.lock();
    queue_.pop_front();
    spare_.push_back(std::move(item.block));
    if (!written.ok()) {
      status_ = std::move(written);
      queue_.clear();
      changed_.notify_all();
      return;
    }
    changed_.notify_all();
  }
}

namespace {

using Send = std::function<bool(std::vector<std::byte>)>;  // false: stop

bool StreamCopy(const ConvertedTensor::Rows& source, WriteQueue& queue, const Send& send) {
  if (source.row_bytes == source.stride) {
    const int64_t total = source.rows * source.row_bytes;
    for (int64_t at = 0; at < total; at += kBlockBytes) {
      const int64_t bytes = std::min(kBlockBytes, total - at);
      std::vector<std::byte> block = queue.TakeBlock(static_cast<size_t>(bytes));
      std::memcpy(block.data(), source.data + at, static_cast<size_t>(bytes));
      if (!send(std::move(block))) return false;
    }
    return true;
  }
  const int64_t step = std::max<int64_t>(1, kBlockBytes / source.row_bytes);
  for (int64_t row = 0; row < source.rows; row += step) {
    const int64_t rows = std::min(step, source.rows - row);
    std::vector<std::byte> block = queue.TakeBlock(static_cast<size_t>(rows * source.row_bytes));
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(block.data() + r * source.row_bytes, source.data + (row + r) * source.stride,
                  static_cast<size_t>(source.row_bytes));
    }
    if (!send(std::move(block))) return false;
  }
  return true;
}

// Streams one tensor; false when the queue has failed or `advance` says stop.
bool StreamTensor(const ConvertedTensor& t, ThreadTeam& team, WriteQueue& queue, const Send& send, ErrorSums* errors) {
  if (t.kind == ConvertedTensor::Kind::kCopy) return StreamCopy(t.source, queue, send);
  Encoder encoder(t);
  const int64_t rows = t.weight.view.rows, row_bytes = encoder.RowBytes();
  const int64_t step = std::max<int64_t>(1, kBlockBytes / (row_bytes * kBand)) * kBand;
  const size_t layer = t.layer >= 0 ? static_cast<size_t>(t.layer) : errors->size() / 2 - 1;
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t end = std::min(rows, row + step);
    std::vector<std::byte> block = queue.TakeBlock(static_cast<size_t>((end - row) * row_bytes));
    std::vector<double> sums(static_cast<size_t>(2 * team.size()));
    std::atomic<int64_t> next{row};
    team.Run([&](int member) {
      for (int64_t r = next.fetch_add(kBand); r < end; r = next.fetch_add(kBand)) {
        encoder.Rows(r, std::min(end, r + kBand), block.data() + (r - row) * row_bytes, &sums[2 * member],
                     &sums[2 * member + 1]);
      }
    });
    for (size_t i = 0; i < sums.size(); i += 2) {
      (*errors)[2 * layer] += sums[i];
      (*errors)[2 * layer + 1] += sums[i + 1];
    }
    if (!send(std::move(block))) return false;
  }
  for (const auto& small : encoder.small()) {
    if (!send(small)) return false;
  }
  return true;
}

}  // namespace

Status WriteConvertedFiles(std::span<const OutputFile> files, std::span<const ConvertedTensor> tensors, ThreadTeam& team,
                           const std::function<bool(int64_t)>& advance, ErrorSums* errors) {
  std::map<int, SafetensorsWriter> writers;
  for (const OutputFile& file : files) {
    std::vector<TensorDeclaration> declarations;
    for (const ConvertedTensor& t : tensors) {
      if (t.rank == file.rank) declarations.insert(declarations.end(), t.outputs.begin(), t.outputs.end());
    }
    MINIMO_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::Create(file.path, declarations, file.metadata));
    writers.emplace(file.rank, std::move(writer));
  }
  bool whole = true;
  {
    WriteQueue queue;
    const size_t ahead = 4 * files.size();  // parts whose pages are asked for early: of about four source tensors
    for (size_t i = 0; i < std::min(ahead, tensors.size()); ++i) AdviseSource(tensors[i], MADV_WILLNEED);
    for (size_t i = 0; i < tensors.size() && whole; ++i) {
      if (i + ahead < tensors.size()) AdviseSource(tensors[i + ahead], MADV_WILLNEED);
      SafetensorsWriter& writer = writers.at(tensors[i].rank);
      const auto send = [&](std::vector<std::byte> block) {
        const auto bytes = static_cast<int64_t>(block.size());
        return queue.Push(writer, std::move(block)) && advance(bytes);
      };
      whole = StreamTensor(tensors[i], team, queue, send, errors);
      AdviseSource(tensors[i], MADV_DONTNEED);
    }
    MINIMO_TRY(queue.Close());
  }
  if (!whole) return Errorf("{}: stopped; the same command goes on from the last whole file", files.front().path);
  for (auto& [rank, writer] : writers) MINIMO_TRY(writer.Finish());
  return {};
}

}  // namespace minimo
