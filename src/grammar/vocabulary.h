// A model's tokens as a grammar sees them: a trie over their bytes. One a tokenizer, shared by every grammar.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace minimo::grammar {

class LeafDfa;
struct ByteDfa;

// Immutable after Create but for a cache with a lock of its own; any thread may use it.
//
// Ordinary tokens stand for their bytes. Special tokens (end of text, turn marks) match nothing. Added tokens that are
// not special ("<think>", "<tool_call>") are text to the reader but marks to the parsers behind it, so that a grammar
// must ask for them by name: their symbols are 0xFF, which no UTF-8 text has, and three bytes of their id. (The token
// of the byte 0xFF itself therefore matches nothing.)
class TokenVocabulary {
 public:
  struct Token {
    std::string bytes;  // empty: no token
    bool special = false;
    bool added = false;
  };

  // tokens[id]. eos_ids: what may follow a finished text.
  static std::shared_ptr<const TokenVocabulary> Create(std::vector<Token> tokens, std::vector<int32_t> eos_ids);
  ~TokenVocabulary();

  int32_t size() const { return static_cast<int32_t>(symbols_.size()); }
  size_t mask_words() const { return (symbols_.size() + 31) / 32; }
  const std::vector<int32_t>& eos_ids() const { return eos_ids_; }
  bool IsEos(int32_t token) const;

  // What the token contributes to the text of a grammar; empty: it cannot occur in one.
  std::string_view Symbols(int32_t token) const { return symbols_[static_cast<size_t>(token)]; }

  // The symbols of an added, not special token that is written `text`.
  std::optional<std::string> TagSymbols(std::string_view text) const;

  // The trie in depth-first order. The children of node i are i + 1, then each subtree_end of the child before, up to
  // subtree_end[i]. Node 0 is the root.
  struct Trie {
    std::vector<uint8_t> byte;
    std::vector<uint16_t> depth;
    std::vector<uint32_t> subtree_end;
    std::vector<uint32_t> token_begin;  // tokens of node i: tokens[token_begin[i], token_begin[i + 1])
    std::vector<int32_t> tokens;
    uint16_t max_depth = 0;
  };
  const Trie& trie() const { return trie_; }

  // The one LeafDfa of equal automata, so that grammars share what has been learnt of it. `keep`: for as long as the
  // vocabulary lives, not only while a grammar holds it.
  std::shared_ptr<LeafDfa> Intern(ByteDfa dfa, bool keep) const;

 private:
  TokenVocabulary() = default;
  void BuildTrie();

  std::vector<std::string> symbols_;
  std::vector<int32_t> eos_ids_;
  std::unordered_map<std::string, int32_t> tags_;
  Trie trie_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, std::weak_ptr<LeafDfa>> leaves_;
  mutable size_t sweep_at_ = 10000;  // leaves beyond which those that no grammar holds are dropped
  mutable std::vector<std::shared_ptr<LeafDfa>> kept_;
};

}  // namespace minimo::grammar
