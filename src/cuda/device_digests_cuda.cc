#include "cuda/device_digests_cuda.h"

#include <algorithm>

namespace minimo::cuda {

Status DeviceDigests::Allocate(int rows, int vocab, const float* logits) {
  logits_ = logits;
  vocab_ = vocab;
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
  MINIMO_TRY(host_scales_.Allocate(int64_t{rows} * 4));
  for (HostMemory& host : host_) MINIMO_TRY(host.Allocate(digest_bytes));
  for (Event& event : sent_) MINIMO_TRY(event.Create());
  return {};
}

// Scales seldom change while the same sequences decode.
Status DeviceDigests::SendScales(std::span<const float> scales, cudaStream_t stream) {
  if (std::equal(scales.begin(), scales.end(), sent_scales_.begin(), sent_scales_.end())) return {};
  sent_scales_.assign(scales.begin(), scales.end());
  MINIMO_CUDA_TRY(cudaStreamSynchronize(stream));  // the buffer may still be read
  std::copy(scales.begin(), scales.end(), host_scales_.As<float>());
  return ToStatus(cudaMemcpyAsync(work_.As(scales_), host_scales_.As(), scales.size() * 4, cudaMemcpyHostToDevice, stream),
                  "sending scales");
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
  return ToStatus(LaunchRowDigest(p, stream), "digests of rows");
}

Status DeviceDigests::Send(int slot, int rows, cudaStream_t stream) {
  if (rows > 0) {
    MINIMO_CUDA_TRY(cudaMemcpyAsync(host_[slot].As(), digests_.As(), static_cast<size_t>(rows) * sizeof(RowDigest),
                                    cudaMemcpyDeviceToHost, stream));
  }
  return ToStatus(cudaEventRecord(sent_[slot].get(), stream), "a step");
}

}  // namespace minimo::cuda
