#include "grammar/runtime.h"

#include <algorithm>
#include <utility>

namespace minimo::grammar {
namespace {

constexpr size_t kFewTokens = 512;

size_t Mix(size_t hash, uint64_t value) {
  hash ^= value + 0x9E3779B97F4A7C15u + (hash << 6) + (hash >> 2);
  return hash * 0xBF58476D1CE4E5B9u;
}

uint32_t SaturatingAdd(uint64_t a, uint64_t b) {
  return static_cast<uint32_t>(std::min<uint64_t>(a + b, kInfiniteLength - 1));
}

}  // namespace

size_t Runtime::FrameHash::operator()(const Frame& f) const {
  return Mix(Mix(Mix((uint64_t{f.expr} << 32) | f.parent, (uint64_t{f.a} << 32) | f.b), f.c), 1);
}

size_t Runtime::ReadyHash::operator()(const std::vector<uint32_t>& ready) const {
  size_t hash = ready.size();
  for (const uint32_t node : ready) hash = Mix(hash, node);
  return hash;
}

Runtime::Runtime(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)) {
  nodes_.emplace_back();
  seen_.push_back(0);
  walk_.resize(grammar_->vocabulary->trie().max_depth + 1u);
  Push(grammar_->root, 0);
  Expand();
  start_ = InternState();
}

uint32_t Runtime::Intern(const Frame& frame) {
  const auto [it, is_new] = node_index_.try_emplace(frame, static_cast<uint32_t>(nodes_.size()));
  if (is_new) {
    nodes_.push_back(frame);
    seen_.push_back(0);
  }
  return it->second;
}

void Runtime::Push(ExprId id, uint32_t parent) {
  const Expr& expr = grammar_->exprs[id];
  if (expr.min_bytes == kInfiniteLength) return;
  switch (expr.kind) {
    case Expr::Kind::kEmpty: work_.push_back(parent); break;
    case Expr::Kind::kNever: break;
    case Expr::Kind::kLeaf:
    case Expr::Kind::kRepeat: {
      const bool is_leaf = expr.kind == Expr::Kind::kLeaf;
      work_.push_back(
          Intern({id, is_leaf ? 0 : expr.min, is_leaf ? expr.min : expr.max, is_leaf ? expr.max : 0, parent}));
      break;
    }
    default: work_.push_back(Intern({id, 0, 0, 0, parent})); break;
  }
}

void Runtime::ExpandNode(uint32_t node) {
  if (node == 0) {
    can_end_ = true;
    return;
  }
  const Frame frame = nodes_[node];
  const Expr& expr = grammar_->exprs[frame.expr];
  switch (expr.kind) {
    case Expr::Kind::kLeaf: {
      const ByteDfa& dfa = LeafOf(frame);
      const size_t state = frame.a;
      if (dfa.accepting[state]) work_.push_back(frame.parent);
      if (dfa.has_next[state]) ready_.push_back(node);
      break;
    }
    case Expr::Kind::kSequence: {
      const uint32_t at = frame.a;
      const uint32_t below =
          at + 1 < expr.children.size() ? Intern({frame.expr, at + 1, 0, 0, frame.parent}) : frame.parent;
      Push(expr.children[at], below);
      break;
    }
    case Expr::Kind::kAlternatives:
      for (const ExprId child : expr.children) Push(child, frame.parent);
      break;
    case Expr::Kind::kRepeat: {
      if (frame.a == 0) work_.push_back(frame.parent);
      if (frame.b == 0) break;
      const uint32_t least = frame.a == 0 ? 0 : frame.a - 1;
      const uint32_t most = frame.b == kUnbounded ? kUnbounded : frame.b - 1;
      Push(expr.children[0], most == 0 ? frame.parent : Intern({frame.expr, least, most, 0, frame.parent}));
      break;
    }
    case Expr::Kind::kRule: Push(expr.children[0], frame.parent); break;
    default: break;
  }
}

void Runtime::Expand() {
  ready_.clear();
  can_end_ = false;
  ++expansion_;
  size_t looked_at = 0;
  while (!work_.empty()) {
    const uint32_t node = work_.back();
    work_.pop_back();
    if (seen_[node] == expansion_) continue;
    seen_[node] = expansion_;
    if (++looked_at > kMaxExpansion) {
      work_.clear();
      ready_.clear();
      can_end_ = false;
      return;
    }
    ExpandNode(node);
  }
  std::sort(ready_.begin(), ready_.end());
}

int32_t Runtime::InternState() {
  if (ready_.empty() && !can_end_) return kDead;
  std::vector<uint32_t> key = ready_;
  key.push_back(can_end_);
  const auto [it, is_new] = state_index_.try_emplace(std::move(key), static_cast<int32_t>(states_.size()));
  if (is_new) {
    auto state = std::make_unique<State>();
    state->ready = ready_;
    state->can_end = can_end_;
    state->next.fill(kDead - 1);  // not known yet
    states_.push_back(std::move(state));
  }
  return it->second;
}

int32_t Runtime::Step(int32_t from, uint8_t byte) {
  State& state = *states_[static_cast<size_t>(from)];
  int32_t& known = state.next[byte];
  if (known >= kDead) return known;
  work_.clear();
  for (const uint32_t node : state.ready) {
    Frame frame = nodes_[node];
    const ByteDfa& dfa = LeafOf(frame);
    const int32_t to = dfa.Next(static_cast<int32_t>(frame.a), byte);
    if (to < 0) continue;
    if (dfa.counted && frame.a == 0) {
      if (byte == '"') {
        if (frame.b > 0) continue;
      } else {
        if (frame.c == 0) continue;
        if (frame.b > 0) --frame.b;
        if (frame.c != kUnbounded) --frame.c;
      }
    }
    frame.a = static_cast<uint32_t>(to);
    work_.push_back(Intern(frame));
  }
  Expand();
  return known = InternState();
}

int32_t Runtime::Advance(int32_t state, std::string_view text) {
  for (const char c : text) {
    if (state == kDead) return kDead;
    state = Step(state, static_cast<uint8_t>(c));
  }
  return state;
}

uint32_t Runtime::MinBytesToEnd(int32_t id) const {
  const State& state = *states_[static_cast<size_t>(id)];
  if (state.can_end) return 0;
  const auto rest = [&](const Frame& frame) -> uint64_t {
    const Expr& expr = grammar_->exprs[frame.expr];
    uint64_t sum = 0;
    if (expr.kind == Expr::Kind::kLeaf) {
      const ByteDfa& dfa = LeafOf(frame);
      sum = dfa.distance[frame.a] + uint64_t{dfa.counted ? frame.b : 0};
    } else if (expr.kind == Expr::Kind::kSequence) {
      for (size_t i = frame.a; i < expr.children.size(); ++i) sum += grammar_->exprs[expr.children[i]].min_bytes;
    } else if (expr.kind == Expr::Kind::kRepeat) {
      sum = uint64_t{frame.a} * grammar_->exprs[expr.children[0]].min_bytes;
    }
    return sum;
  };
  uint32_t best = kInfiniteLength;
  for (uint32_t node : state.ready) {
    uint32_t sum = 0;
    for (; node != 0; node = nodes_[node].parent) sum = SaturatingAdd(sum, rest(nodes_[node]));
    best = std::min(best, sum);
  }
  return best;
}

int32_t Runtime::StateAfterPop(uint32_t parent) {
  const auto it = after_pop_.find(parent);
  if (it != after_pop_.end()) return it->second;
  work_.assign(1, parent);
  Expand();
  return after_pop_[parent] = InternState();
}

void Runtime::WalkSubtree(uint32_t node, int32_t state, uint32_t* mask) {
  const TokenVocabulary::Trie& trie = grammar_->vocabulary->trie();
  const uint16_t base = trie.depth[node];
  const uint32_t end = trie.subtree_end[node];
  walk_[0] = state;
  for (uint32_t i = node + 1; i < end;) {
    const uint16_t depth = trie.depth[i] - base;
    const int32_t next = Step(walk_[depth - 1u], trie.byte[i]);
    if (next == kDead) {
      i = trie.subtree_end[i];
      continue;
    }
    for (uint32_t t = trie.token_begin[i]; t < trie.token_begin[i + 1]; ++t) {
      const int32_t token = trie.tokens[t];
      mask[token / 32] |= uint32_t{1} << (token % 32);
    }
    walk_[depth] = next;
    ++i;
  }
}

void Runtime::ComputeMask(State* state) {
  const TokenVocabulary& vocabulary = *grammar_->vocabulary;
  std::vector<uint32_t> mask(vocabulary.mask_words(), 0);
  for (const uint32_t node : state->ready) {
    const Frame frame = nodes_[node];
    LeafDfa& leaf = *grammar_->leaves[grammar_->exprs[frame.expr].leaf];
    const bool counted = leaf.dfa().counted;
    const int32_t leaf_state = static_cast<int32_t>(frame.a);
    leaf.AddInside(leaf_state, frame.b, counted ? frame.c : kUnbounded, vocabulary, mask.data());
    const LeafMask& inside = leaf.Mask(leaf_state, vocabulary);
    if (inside.entries.empty()) continue;
    const int32_t after = StateAfterPop(frame.parent);
    if (after == kDead || states_[static_cast<size_t>(after)]->ready.empty()) continue;
    for (const LeafMask::Entry& entry : inside.entries) {
      if (counted && (entry.chars < frame.b || entry.chars > frame.c)) continue;
      WalkSubtree(entry.node, after, mask.data());
    }
  }
  size_t count = 0;
  for (const uint32_t word : mask) count += static_cast<size_t>(__builtin_popcount(word));
  if (count > kFewTokens) {
    state->mask = std::move(mask);
    mask_bytes_ += state->mask.size() * sizeof(uint32_t);
  } else {
    for (size_t w = 0; w < mask.size(); ++w) {
      for (uint32_t word = mask[w]; word != 0; word &= word - 1) {
        state->few_tokens.push_back(static_cast<int32_t>(w * 32) + __builtin_ctz(word));
      }
    }
  }
  state->mask_known = true;
}

void Runtime::FillMask(int32_t id, uint32_t* mask, size_t words) {
  State& state = *states_[static_cast<size_t>(id)];
  if (!state.mask_known) ComputeMask(&state);
  const size_t common = std::min(words, state.mask.size());
  for (size_t w = 0; w < common; ++w) mask[w] |= state.mask[w];
  for (const int32_t token : state.few_tokens) {
    if (static_cast<size_t>(token) / 32 < words) mask[token / 32] |= uint32_t{1} << (token % 32);
  }
}

int32_t Runtime::Import(const Runtime& other, int32_t id) {
  const State& state = *other.states_[static_cast<size_t>(id)];
  std::unordered_map<uint32_t, uint32_t> moved = {{0, 0}};
  std::vector<uint32_t> ready;
  for (const uint32_t top : state.ready) {
    std::vector<uint32_t> chain;
    for (uint32_t node = top; moved.find(node) == moved.end(); node = other.nodes_[node].parent) chain.push_back(node);
    for (; !chain.empty(); chain.pop_back()) {
      Frame frame = other.nodes_[chain.back()];
      frame.parent = moved.at(frame.parent);
      moved[chain.back()] = Intern(frame);
    }
    ready.push_back(moved.at(top));
  }
  std::sort(ready.begin(), ready.end());
  ready_ = std::move(ready);
  can_end_ = state.can_end;
  return InternState();
}

}  // namespace minimo::grammar
