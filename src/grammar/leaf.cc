#include "grammar/leaf.h"

#include <algorithm>
#include <map>

namespace minimo::grammar {
namespace {

constexpr size_t kDenseAbove = 512;  // tokens; below, a list is shorter to apply than 25 KB of bits

inline void SetBit(uint32_t* bits, int32_t token) { bits[token / 32] |= uint32_t{1} << (token % 32); }

}  // namespace

ByteDfa ByteDfa::From(const Dfa& dfa, bool counted) {
  ByteDfa out;
  out.counted = counted;
  const size_t n = dfa.states.size();
  std::vector<std::array<int32_t, 256>> rows(n);
  out.accepting.resize(n);
  out.has_next.resize(n);
  std::vector<std::vector<int32_t>> sources(n);
  for (size_t s = 0; s < n; ++s) {
    rows[s].fill(-1);
    for (const Edge& e : dfa.states[s].edges) {
      for (uint32_t b = e.low; b <= e.high && b < 256; ++b) rows[s][b] = e.to;
      sources[static_cast<size_t>(e.to)].push_back(static_cast<int32_t>(s));
    }
    out.accepting[s] = dfa.states[s].accepting;
    out.has_next[s] = !dfa.states[s].edges.empty();
  }
  std::map<std::vector<int32_t>, uint8_t> classes;
  for (size_t b = 0; b < 256; ++b) {
    std::vector<int32_t> column(n);
    for (size_t s = 0; s < n; ++s) column[s] = rows[s][b];
    out.byte_class[b] = classes.try_emplace(std::move(column), static_cast<uint8_t>(classes.size())).first->second;
  }
  out.classes = static_cast<uint32_t>(classes.size());
  out.next.resize(n * out.classes);
  for (const auto& [column, c] : classes) {
    for (size_t s = 0; s < n; ++s) out.next[s * out.classes + c] = column[s];
  }
  out.distance.assign(n, UINT32_MAX);
  std::vector<int32_t> queue;
  for (size_t s = 0; s < n; ++s) {
    if (out.accepting[s]) out.distance[s] = 0, queue.push_back(static_cast<int32_t>(s));
  }
  for (size_t at = 0; at < queue.size(); ++at) {
    for (const int32_t from : sources[static_cast<size_t>(queue[at])]) {
      if (out.distance[static_cast<size_t>(from)] != UINT32_MAX) continue;
      out.distance[static_cast<size_t>(from)] = out.distance[static_cast<size_t>(queue[at])] + 1;
      queue.push_back(from);
    }
  }
  return out;
}

std::string ByteDfa::Key() const {
  std::string key(byte_class.begin(), byte_class.end());
  key.append(reinterpret_cast<const char*>(next.data()), next.size() * sizeof(next[0]));
  key.append(accepting.begin(), accepting.end());
  key += counted ? 'c' : 'u';
  return key;
}

LeafDfa::LeafDfa(ByteDfa dfa) : dfa_(std::move(dfa)), masks_(dfa_.accepting.size()), within_(dfa_.accepting.size()) {}

const LeafMask& LeafDfa::Mask(int32_t state, const TokenVocabulary& vocabulary) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<LeafMask>& mask = masks_[static_cast<size_t>(state)];
  if (mask == nullptr) mask = ComputeMask(state, vocabulary);
  return *mask;
}

std::unique_ptr<LeafMask> LeafDfa::ComputeMask(int32_t state, const TokenVocabulary& vocabulary) const {
  auto mask = std::make_unique<LeafMask>();
  const TokenVocabulary::Trie& trie = vocabulary.trie();
  struct Step {
    int32_t state;
    uint32_t chars;
  };
  std::vector<Step> path(trie.max_depth + 1u);
  path[0] = {state, 0};
  for (uint32_t node = 1; node < trie.byte.size();) {
    const Step& from = path[trie.depth[node] - 1u];
    const int32_t to = dfa_.Next(from.state, trie.byte[node]);
    if (to < 0) {
      node = trie.subtree_end[node];
      continue;
    }
    const uint32_t chars = from.chars + (dfa_.counted && from.state == 0 && trie.byte[node] != '"');
    path[trie.depth[node]] = {to, chars};
    const bool closes = dfa_.counted && dfa_.accepting[static_cast<size_t>(to)];
    for (uint32_t t = trie.token_begin[node]; t < trie.token_begin[node + 1]; ++t) {
      if (closes) {
        mask->closers.push_back({trie.tokens[t], chars});
        continue;
      }
      mask->tokens.push_back(trie.tokens[t]);
      if (!dfa_.counted) continue;
      if (mask->by_chars.size() <= chars) mask->by_chars.resize(chars + 1);
      mask->by_chars[chars].push_back(trie.tokens[t]);
    }
    if (dfa_.accepting[static_cast<size_t>(to)] && trie.subtree_end[node] > node + 1) {
      mask->entries.push_back({node, chars});
    }
    ++node;
  }
  if (mask->tokens.size() > kDenseAbove) {
    mask->is_dense = true;
    mask->bits.assign(vocabulary.mask_words(), 0);
    for (const int32_t token : mask->tokens) SetBit(mask->bits.data(), token);
    mask->tokens = {};
  }
  return mask;
}

const std::vector<uint32_t>& LeafDfa::BitsWithin(int32_t state, uint32_t max_chars, const LeafMask& mask,
                                                 size_t words) {
  auto& levels = within_[static_cast<size_t>(state)];
  while (levels.size() <= max_chars) {
    std::vector<uint32_t> bits = levels.empty() ? std::vector<uint32_t>(words, 0) : levels.back();
    for (const int32_t token : mask.by_chars[levels.size()]) SetBit(bits.data(), token);
    levels.push_back(std::move(bits));
  }
  return levels[max_chars];
}

void LeafDfa::AddInside(int32_t state, uint32_t min_chars, uint32_t max_chars, const TokenVocabulary& vocabulary,
                        uint32_t* bits) {
  const LeafMask& mask = Mask(state, vocabulary);
  for (const LeafMask::Closer& closer : mask.closers) {
    if (closer.chars >= min_chars && closer.chars <= max_chars) SetBit(bits, closer.token);
  }
  const std::vector<uint32_t>* dense = mask.is_dense ? &mask.bits : nullptr;
  if (dfa_.counted && size_t{max_chars} + 1 < mask.by_chars.size()) {
    const std::lock_guard lock(mutex_);
    dense = &BitsWithin(state, max_chars, mask, vocabulary.mask_words());
    for (size_t w = 0; w < dense->size(); ++w) bits[w] |= (*dense)[w];
    return;
  }
  if (dense != nullptr) {
    for (size_t w = 0; w < dense->size(); ++w) bits[w] |= (*dense)[w];
  } else {
    for (const int32_t token : mask.tokens) SetBit(bits, token);
  }
}

}  // namespace minimo::grammar
