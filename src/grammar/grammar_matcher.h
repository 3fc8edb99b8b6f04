// A TokenMatcher over a Grammar. Matchers of one grammar share what they learn of it, under a lock: the engine may fill
// the masks of many sequences from many threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "grammar/grammar.h"
#include "grammar/runtime.h"
#include "minimo/request.h"

namespace minimo::grammar {

class GrammarMatcher final : public TokenMatcher {
 public:
  explicit GrammarMatcher(std::shared_ptr<const Grammar> grammar);

  void FillMask(uint32_t* mask, size_t words) override;
  bool Accept(int32_t token) override;
  bool Finished() const override;
  std::unique_ptr<TokenMatcher> Clone() const override;

  // Bytes to the nearest end of the text: a measure by which a test can steer there.
  uint32_t MinBytesToEnd() const;

 private:
  struct Shared {
    explicit Shared(std::shared_ptr<const Grammar> g);
    std::shared_ptr<const Grammar> grammar;
    std::mutex mutex;
    std::shared_ptr<Runtime> runtime;  // replaced when full; matchers move on at their next call
  };

  GrammarMatcher(const GrammarMatcher&) = default;
  void MoveOn();

  std::shared_ptr<Shared> shared_;
  std::shared_ptr<Runtime> runtime_;
  int32_t state_;
  bool ended_ = false;  // an end-of-text token was taken
};

}  // namespace minimo::grammar
