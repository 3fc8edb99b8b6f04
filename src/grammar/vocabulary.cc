#include "grammar/vocabulary.h"

#include <algorithm>
#include <numeric>

#include "grammar/leaf.h"

namespace minimo::grammar {
namespace {

constexpr size_t kMaxTokenBytes = 4096;  // longer ones are left out: no grammar needs them

std::string IdSymbols(int32_t id) {
  return {'\xFF', static_cast<char>(id >> 16), static_cast<char>(id >> 8), static_cast<char>(id)};
}

}  // namespace

TokenVocabulary::~TokenVocabulary() = default;

std::shared_ptr<const TokenVocabulary> TokenVocabulary::Create(std::vector<Token> tokens,
                                                               std::vector<int32_t> eos_ids) {
  std::shared_ptr<TokenVocabulary> vocabulary(new TokenVocabulary);
  vocabulary->eos_ids_ = std::move(eos_ids);
  vocabulary->symbols_.resize(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    Token& token = tokens[i];
    const int32_t id = static_cast<int32_t>(i);
    if (token.special || token.bytes.empty() || token.bytes.size() > kMaxTokenBytes || vocabulary->IsEos(id)) continue;
    if (token.added) {
      vocabulary->tags_.emplace(std::move(token.bytes), id);
      vocabulary->symbols_[i] = IdSymbols(id);
    } else if (token.bytes.find('\xFF') == std::string::npos) {  // no text has it; here it means a tag
      vocabulary->symbols_[i] = std::move(token.bytes);
    }
  }
  vocabulary->BuildTrie();
  return vocabulary;
}

bool TokenVocabulary::IsEos(int32_t token) const {
  return std::find(eos_ids_.begin(), eos_ids_.end(), token) != eos_ids_.end();
}

std::optional<std::string> TokenVocabulary::TagSymbols(std::string_view text) const {
  const auto it = tags_.find(std::string(text));
  if (it == tags_.end()) return std::nullopt;
  return IdSymbols(it->second);
}

void TokenVocabulary::BuildTrie() {
  std::vector<int32_t> order;
  for (int32_t id = 0; id < size(); ++id) {
    if (!Symbols(id).empty()) order.push_back(id);
  }
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return Symbols(a) < Symbols(b); });
  Trie& trie = trie_;
  const auto add_node = [&](uint8_t byte, size_t depth) {
    trie.byte.push_back(byte);
    trie.depth.push_back(static_cast<uint16_t>(depth));
    trie.subtree_end.push_back(0);
    trie.token_begin.push_back(static_cast<uint32_t>(trie.tokens.size()));
  };
  add_node(0, 0);
  std::vector<uint32_t> path = {0};  // the nodes of the token before
  std::string_view before;
  for (const int32_t id : order) {
    const std::string_view text = Symbols(id);
    const size_t common = static_cast<size_t>(
        std::mismatch(before.begin(), before.end(), text.begin(), text.end()).first - before.begin());
    while (path.size() > common + 1) {
      trie.subtree_end[path.back()] = static_cast<uint32_t>(trie.byte.size());
      path.pop_back();
    }
    for (size_t i = common; i < text.size(); ++i) {
      path.push_back(static_cast<uint32_t>(trie.byte.size()));
      add_node(static_cast<uint8_t>(text[i]), i + 1);
    }
    trie.tokens.push_back(id);  // nodes are made in order, so that this one is the last
    trie.max_depth = std::max(trie.max_depth, static_cast<uint16_t>(text.size()));
    before = text;
  }
  while (!path.empty()) {
    trie.subtree_end[path.back()] = static_cast<uint32_t>(trie.byte.size());
    path.pop_back();
  }
  trie.token_begin.push_back(static_cast<uint32_t>(trie.tokens.size()));
}

std::shared_ptr<LeafDfa> TokenVocabulary::Intern(ByteDfa dfa, bool keep) const {
  std::string key = dfa.Key();
  const std::lock_guard lock(mutex_);
  if (leaves_.size() > sweep_at_) {
    std::erase_if(leaves_, [](const auto& entry) { return entry.second.expired(); });
    sweep_at_ = std::max<size_t>(10000, 2 * leaves_.size());
  }
  std::weak_ptr<LeafDfa>& slot = leaves_[std::move(key)];
  std::shared_ptr<LeafDfa> leaf = slot.lock();
  if (leaf == nullptr) {
    leaf = std::make_shared<LeafDfa>(std::move(dfa));
    slot = leaf;
  }
  if (keep && std::find(kept_.begin(), kept_.end(), leaf) == kept_.end()) kept_.push_back(leaf);
  return leaf;
}

}  // namespace minimo::grammar
