#include "grammar/grammar_matcher.h"

#include <utility>

namespace minimo::grammar {

GrammarMatcher::Shared::Shared(std::shared_ptr<const Grammar> g)
    : grammar(std::move(g)), runtime(std::make_shared<Runtime>(grammar)) {}

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar)
    : shared_(std::make_shared<Shared>(std::move(grammar))), runtime_(shared_->runtime), state_(runtime_->start()) {}

// Under the lock.
void GrammarMatcher::MoveOn() {
  if (shared_->runtime->IsFull()) shared_->runtime = std::make_shared<Runtime>(shared_->grammar);
  if (runtime_ == shared_->runtime) return;
  if (state_ != Runtime::kDead) state_ = shared_->runtime->Import(*runtime_, state_);
  runtime_ = shared_->runtime;
}

void GrammarMatcher::FillMask(uint32_t* mask, size_t words) {
  const std::lock_guard lock(shared_->mutex);
  MoveOn();
  if (state_ == Runtime::kDead) return;
  if (!ended_) runtime_->FillMask(state_, mask, words);
  if (!ended_ && !runtime_->CanEnd(state_)) return;
  for (const int32_t eos : shared_->grammar->vocabulary->eos_ids()) {
    if (eos >= 0 && static_cast<size_t>(eos) / 32 < words) mask[eos / 32] |= uint32_t{1} << (eos % 32);
  }
}

bool GrammarMatcher::Accept(int32_t token) {
  const std::lock_guard lock(shared_->mutex);
  MoveOn();
  if (state_ == Runtime::kDead) return false;
  const TokenVocabulary& vocabulary = *shared_->grammar->vocabulary;
  if (vocabulary.IsEos(token)) {
    ended_ = ended_ || runtime_->CanEnd(state_);
    return ended_;
  }
  if (ended_ || token < 0 || token >= vocabulary.size() || vocabulary.Symbols(token).empty()) return false;
  const int32_t next = runtime_->Advance(state_, vocabulary.Symbols(token));
  if (next == Runtime::kDead) return false;
  state_ = next;
  return true;
}

bool GrammarMatcher::Finished() const {
  const std::lock_guard lock(shared_->mutex);
  return ended_ || (state_ != Runtime::kDead && runtime_->MustEnd(state_));
}

std::unique_ptr<TokenMatcher> GrammarMatcher::Clone() const {
  return std::unique_ptr<TokenMatcher>(new GrammarMatcher(*this));
}

uint32_t GrammarMatcher::MinBytesToEnd() const {
  const std::lock_guard lock(shared_->mutex);
  return state_ == Runtime::kDead ? 0 : runtime_->MinBytesToEnd(state_);
}

}  // namespace minimo::grammar
