#include "cuda/device_digests_cuda.h"

#include <algorithm>

namespace minimo::cuda {

Status DeviceDigests::Allocate(int rows, int vocab, const float* logits, Exchange* exchange) {
  logits_ = logits;
  vocab_ = vocab;
  exchange_ = exchange;
  int64_t bytes = 0;
  const auto take = [&](int64_t count) {
    const int64_t at = bytes;
    bytes += count * rows * 4;
    return at;
  };
  value_ = take(kDigestParts);
  token_ = take(kDigestParts);
  sum_ = take(kDigestParts);
  mass_ = take(kDigestParts);
  block_max_ = take(DigestBlocks(vocab));
  counters_ = take(1);
  scales_ = take(1);
  MINIMO_TRY(work_.AllocateZeroed(bytes));
  const int64_t digest_bytes = int64_t{rows} * static_cast<int64_t>(sizeof(RowDigest));
  MINIMO_TRY(digests_.Allocate(digest_bytes));
  const int ranks = exchange != nullptr ? exchange->ranks() : 1;
  if (exchange != nullptr) MINIMO_TRY(all_.Allocate(digest_bytes * ranks));
  MINIMO_TRY(host_scales_.Allocate(int64_t{rows} * 4));
  for (HostMemory& host : host_) MINIMO_TRY(host.Allocate(digest_bytes * ranks));
  for (Event& event : sent_) MINIMO_TRY(event.Create());
  return {};
}

// Scales seldom change while the same sequences decode.
Status DeviceDigests::SendScales(std::span<const float> scales, cudaStream_t stream) {
  if (std::equal(scales.begin(), scales.end(), sent_scales_.begin(), sent_scales_.end())) return {};
  sent_scales_.assign(scales.begin(), scales.end());
  MINIMO_CUDA_TRY(cudaStreamSynchronize(stream));  // the buffer may still be read
  std::copy(scales.begin(), scales.end(), host_scales_.As<float>());
  return ToStatus(cudaMemcpyAsync(work_.As(scales_), host_scales_.As(), scales.size() * 4, cudaMemcpyHostToDevice,
                                  stream), "sending scales");
}

RowDigestParams DeviceDigests::Params(int rows) const {
  RowDigestParams p;
  p.logits = logits_;
  p.rows = rows;
  p.vocab = vocab_;
  p.part_value = work_.As<float>(value_);
  p.part_token = work_.As<int>(token_);
  p.part_sum = work_.As<float>(sum_);
  p.part_mass = work_.As<float>(mass_);
  p.block_max = work_.As<float>(block_max_);
  p.counters = work_.As<int>(counters_);
  return p;
}

Status DeviceDigests::Make(int rows, int* token, cudaStream_t stream) {
  RowDigestParams p = Params(rows);
  p.scale = work_.As<float>(scales_);
  p.digest = digests_.As<RowDigest>();
  p.token = token;
  return Launch(p, stream);
}

Status DeviceDigests::Launch(RowDigestParams p, cudaStream_t stream) {
  if (exchange_ == nullptr) return ToStatus(LaunchRowDigest(p, stream), "digests of rows");
  RowDigestParams part = Params(p.rows);
  part.scale = p.scale;
  part.digest = digests_.As<RowDigest>();
  MINIMO_CUDA_TRY(LaunchRowDigest(part, stream));
  MINIMO_TRY(exchange_->AllGather(digests_.As(), all_.As(), p.rows * static_cast<int64_t>(sizeof(RowDigest)), stream));
  if (p.token == nullptr) return {};
  p.vocab = exchange_->vocab();
  return ToStatus(LaunchBestOfRanks(p, all_.As<RowDigest>(), exchange_->ranks(), stream), "the best of all ranks");
}

Status DeviceDigests::Send(int slot, int rows, cudaStream_t stream) {
  const int ranks = exchange_ != nullptr ? exchange_->ranks() : 1;
  sent_rows_[slot] = rows;
  if (rows > 0) {
    MINIMO_CUDA_TRY(cudaMemcpyAsync(host_[slot].As(), exchange_ != nullptr ? all_.As() : digests_.As(),
                                    static_cast<size_t>(ranks) * static_cast<size_t>(rows) * sizeof(RowDigest),
                                    cudaMemcpyDeviceToHost, stream));
  }
  return ToStatus(cudaEventRecord(sent_[slot].get(), stream), "a step");
}

Status DeviceDigests::Wait(int slot) {
  if (exchange_ != nullptr) return exchange_->Finish(sent_[slot].get());
  return ToStatus(cudaEventSynchronize(sent_[slot].get()), "a step");
}

const RowDigest* DeviceDigests::Row(int slot, int row) {
  const RowDigest* host = host_[slot].As<RowDigest>();
  if (exchange_ == nullptr) return host + row;
  std::vector<const RowDigest*> parts;
  std::vector<int32_t> begins;
  for (int r = 0; r < exchange_->ranks(); ++r) {
    parts.push_back(host + int64_t{r} * sent_rows_[slot] + row);
    begins.push_back(static_cast<int32_t>(ShareOf(exchange_->vocab(), exchange_->ranks(), r).begin));
  }
  std::vector<RowDigest>& merged = merged_[slot];
  merged.resize(static_cast<size_t>(sent_rows_[slot]));
  RowDigest* whole = &merged[static_cast<size_t>(row)];
  MergeDigests(parts, begins, whole);
  return whole;
}

}  // namespace minimo::cuda
