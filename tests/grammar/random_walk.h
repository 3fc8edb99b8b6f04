// Writes texts under a matcher by choosing tokens at random, steering to an end after a while.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "grammar/grammar_matcher.h"
#include "minimo/result.h"
#include "minimo/tokenizer.h"

namespace minimo::testing {

// `vocab`: rows of logits. After `free_tokens` tokens the nearest end is sought. An error: a dead end, a token that the
// mask allowed and the matcher refused, or a text that does not end.
inline Result<std::string> RandomWalk(const TokenMatcher& prototype, const Tokenizer& tokenizer, int32_t vocab,
                                      int free_tokens, std::mt19937* rng, std::vector<int32_t>* tokens = nullptr) {
  const std::unique_ptr<TokenMatcher> matcher = prototype.Clone();
  std::vector<uint32_t> mask(static_cast<size_t>(vocab + 31) / 32);
  std::string text;
  for (int step = 0; step < free_tokens + 20000; ++step) {
    if (matcher->Finished()) return text;
    std::fill(mask.begin(), mask.end(), 0);
    matcher->FillMask(mask.data(), mask.size());
    std::vector<int32_t> allowed;
    bool may_end = false;
    for (int32_t t = 0; t < vocab; ++t) {
      if (!(mask[static_cast<size_t>(t) / 32] >> (t % 32) & 1)) continue;
      if (t < tokenizer.vocab_size() && !tokenizer.IsSpecial(t)) {
        allowed.push_back(t);
      } else {
        may_end = true;
      }
    }
    if (may_end && (allowed.empty() || step >= free_tokens || (*rng)() % 4 == 0)) return text;
    if (allowed.empty()) return Error{"dead end after: " + text};
    int32_t chosen = allowed[(*rng)() % allowed.size()];
    if (step >= free_tokens) {
      uint32_t best = UINT32_MAX;
      const bool all = allowed.size() <= 64;
      for (const int32_t t : allowed) {
        if (!all && tokenizer.TokenBytes(t).size() != 1 && !tokenizer.IsAdded(t)) continue;
        const auto next = matcher->Clone();
        if (!next->Accept(t)) return Error{"the mask allows what the matcher refuses after: " + text};
        const uint32_t left = static_cast<grammar::GrammarMatcher*>(next.get())->MinBytesToEnd();
        if (left < best) best = left, chosen = t;
      }
    }
    if (!matcher->Accept(chosen)) return Error{"the mask allows what the matcher refuses after: " + text};
    if (tokens != nullptr) tokens->push_back(chosen);
    text += tokenizer.TokenBytes(chosen);
  }
  return Error{"no end after: " + text.substr(0, 2000)};
}

}  // namespace minimo::testing
