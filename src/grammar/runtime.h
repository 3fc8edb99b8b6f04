// The pushdown automaton of a grammar, made deterministic as far as texts need it: a state is a set of stacks.
//
// A stack is a linked list of frames, each an expression with what is left of it; equal stacks are one node. The top of
// every stack of a state is a leaf, ready for a byte. Not thread-safe: the matchers of one grammar share a lock.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "grammar/grammar.h"

namespace minimo::grammar {

class Runtime {
 public:
  static constexpr int32_t kDead = -1;

  // A frame on a stack: an expression and how far it is. A sequence: a = the next child. A repeat: a, b = how many more
  // at least and at most. A leaf: a = the automaton's state; b, c = characters left at least and at most.
  struct Frame {
    ExprId expr = 0;
    uint32_t a = 0, b = 0, c = 0;
    uint32_t parent = 0;  // the node below
    bool operator==(const Frame&) const = default;
  };

  explicit Runtime(std::shared_ptr<const Grammar> grammar);

  int32_t start() const { return start_; }
  // The state after a byte, or kDead.
  int32_t Step(int32_t state, uint8_t byte);
  // After all bytes of `text`.
  int32_t Advance(int32_t state, std::string_view text);
  bool CanEnd(int32_t state) const { return states_[static_cast<size_t>(state)]->can_end; }
  bool MustEnd(int32_t state) const { return CanEnd(state) && states_[static_cast<size_t>(state)]->ready.empty(); }
  // Bytes to the nearest end.
  uint32_t MinBytesToEnd(int32_t state) const;

  // Sets the bits of the tokens that may follow, without the end of text. `words` may differ from the vocabulary's.
  void FillMask(int32_t state, uint32_t* mask, size_t words);

  // The same state of another runtime of the same grammar.
  int32_t Import(const Runtime& other, int32_t state);

  // Memory worth giving up: start a new Runtime and Import.
  bool IsFull() const {
    return nodes_.size() > kMaxNodes || states_.size() > kMaxStates || mask_bytes_ > kMaxMaskBytes;
  }

 private:
  static constexpr size_t kMaxNodes = 1'000'000;
  static constexpr size_t kMaxStates = 20'000;      // 1 KB each
  static constexpr size_t kMaxMaskBytes = 64 << 20;
  static constexpr size_t kMaxExpansion = 100'000;  // nodes looked at in one step: a bound on ambiguity

  struct State {
    std::vector<uint32_t> ready;  // nodes, ascending
    bool can_end = false;
    std::array<int32_t, 256> next;
    std::vector<uint32_t> mask;       // bits, once known, or
    std::vector<int32_t> few_tokens;  // a list
    bool mask_known = false;
  };
  struct FrameHash {
    size_t operator()(const Frame& f) const;
  };
  struct ReadyHash {
    size_t operator()(const std::vector<uint32_t>& ready) const;
  };

  uint32_t Intern(const Frame& frame);
  void Push(ExprId expr, uint32_t parent);  // adds to work_
  void Expand();                            // work_ -> ready_, can_end_
  void ExpandNode(uint32_t node);
  int32_t InternState();                    // from ready_, can_end_
  int32_t StateAfterPop(uint32_t parent);
  void ComputeMask(State* state);
  void WalkSubtree(uint32_t node, int32_t state, uint32_t* mask);
  const ByteDfa& LeafOf(const Frame& frame) const { return grammar_->leaves[grammar_->exprs[frame.expr].leaf]->dfa(); }

  std::shared_ptr<const Grammar> grammar_;
  std::vector<Frame> nodes_;  // node 0: the bottom
  std::unordered_map<Frame, uint32_t, FrameHash> node_index_;
  std::vector<uint32_t> seen_;  // [nodes]: the expansion that met it last
  uint32_t expansion_ = 0;
  std::vector<std::unique_ptr<State>> states_;
  std::unordered_map<std::vector<uint32_t>, int32_t, ReadyHash> state_index_;  // ready nodes, then can_end
  std::unordered_map<uint32_t, int32_t> after_pop_;
  std::vector<uint32_t> work_, ready_;
  bool can_end_ = false;
  std::vector<int32_t> walk_;
  size_t mask_bytes_ = 0;
  int32_t start_ = kDead;
};

}  // namespace minimo::grammar
