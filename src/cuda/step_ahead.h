// The step that is started before the host has asked for it: the same sequences, each one token on. Host logic only.
#pragma once

#include <cstdint>
#include <vector>

#include "kv/kv_layout.h"
#include "kv/step.h"

namespace minimo::cuda {

// The step after `step` (a decode step: one token and one row of logits a sequence), its token ids left 0. False where
// it cannot be told or must not run before the host asks: a next token outside the step's blocks, or a write that
// would spoil windows which the prefix cache may keep if a sequence ends now.
bool NextStep(const StepRecord& step, const KvLayout& layout, StepRecord* next);

// Whether a step ahead computed all that `step` asks for, given the tokens that it ran with: rows[i] is then the row of
// step.sequences[i]. Sequences that have ended meanwhile may be missing from `step`.
bool IsPartOf(const StepRecord& step, const StepRecord& ahead, const std::vector<int32_t>& ahead_tokens,
              int block_size, std::vector<int32_t>* rows);

}  // namespace minimo::cuda
