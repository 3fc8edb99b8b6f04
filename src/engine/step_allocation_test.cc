// A decode step takes no memory from the heap: every allocation of this program is counted.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <limits>

#include "engine/cpu_executor.h"
#include "models/kv_layout.h"
#include "models/loader.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define MINIMO_COUNTS_ALLOCATIONS 0  // the sanitizers have their own
#else
#define MINIMO_COUNTS_ALLOCATIONS 1
#endif

namespace {
std::atomic<int64_t> allocations{0};
}

#if MINIMO_COUNTS_ALLOCATIONS
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) noexcept {  // operator new ends here, too
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) noexcept {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* old, size_t size) noexcept {
  ++allocations;
  return __libc_realloc(old, size);
}
void* aligned_alloc(size_t alignment, size_t size) noexcept {
  ++allocations;
  return __libc_memalign(alignment, size);
}
}
#endif

namespace minimo {
namespace {

// `sequences` sequences with `tokens` new tokens each after `past`, in blocks and rings of their own.
StepRecord Step(const KvLayout& layout, int sequences, int32_t past, int32_t tokens) {
  StepRecord step;
  const int32_t blocks = layout.num_blocks / sequences;
  for (int32_t i = 0; i < sequences; ++i) {
    SequenceStep s;
    s.first_token = i * tokens;
    s.num_tokens = tokens;
    s.past = past;
    s.block_table = i * blocks;
    s.num_blocks = blocks;
    s.ring = layout.num_rings > 0 ? i : -1;
    s.num_logits = 1;
    step.sequences.push_back(s);
    for (int32_t t = 0; t < tokens; ++t) step.tokens.push_back(100 + (past + t) * 7 % 500 + i);
    for (int32_t b = 0; b < blocks; ++b) step.block_tables.push_back(s.block_table + b);
  }
  return step;
}

void ExpectNoAllocation(const char* name, int sequences) {
  auto folder = ResolveModelFolder(name);
  ASSERT_TRUE(folder.ok());
  auto model = LoadModel(*folder);
  ASSERT_TRUE(model.ok());
  for (const DType dtype : {DType::kBf16, DType::kF8E4M3}) {
    KvLayout layout = MakeKvLayout(model->spec, dtype, 16);
    layout.num_blocks = 4 * sequences;
    layout.num_rings = layout.ring_tokens > 0 ? sequences : 0;
    auto executor = CpuExecutor::Create(*model, layout, dtype, 2);
    ASSERT_TRUE(executor.ok());
    std::vector<StepRecord> steps = {Step(layout, sequences, 0, 40)};
    for (int32_t past = 40; past < 64; ++past) steps.push_back(Step(layout, sequences, past, 1));
    StepOutput output;
    // A worker that was away in the first rounds still meets its buffers for the first time: what counts is a round
    // without any. A step that takes memory does so in every round.
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int round = 0; round < 20 && least > 0; ++round) {
      const int64_t before = allocations.load();
      for (const StepRecord& step : steps) ASSERT_TRUE((*executor)->Run(step, &output).ok());
      const int64_t taken = allocations.load() - before;
      ASSERT_TRUE(round > 0 || taken > 0) << "nothing is counted";
      least = std::min(least, taken);
    }
    EXPECT_EQ(least, 0) << name << ", " << sequences << " sequences, " << NameOf(dtype);
  }
}

TEST(StepAllocation, DecodeTakesNothingFromTheHeap) {
  if (!MINIMO_COUNTS_ALLOCATIONS) GTEST_SKIP() << "the allocator belongs to a sanitizer";
  for (const char* name : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    for (const int sequences : {1, 8}) ExpectNoAllocation(name, sequences);
  }
}

}  // namespace
}  // namespace minimo
