// The regular pieces of a grammar as byte automata, with what every token of the vocabulary does in each of their
// states. That is independent of where in the grammar the piece stands, so it is found once and kept (the idea of
// XGrammar, arXiv 2411.15100): a token either stays inside the piece to its end, or dies in it, or leaves it at some
// place and depends on what follows.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/vocabulary.h"

namespace minimo::grammar {

struct ByteDfa {
  std::array<uint8_t, 256> byte_class{};  // bytes that no state tells apart share a class
  uint32_t classes = 0;
  std::vector<int32_t> next;        // [states, classes]; -1: none
  std::vector<uint8_t> accepting;   // [states]
  std::vector<uint8_t> has_next;    // [states]: any byte may follow
  std::vector<uint32_t> distance;   // [states]: bytes to the nearest accepting state
  // A string body: each byte taken in state 0 other than the closing quote begins a character. Frames of such a leaf
  // count characters.
  bool counted = false;

  // Of a trimmed automaton over bytes that is not empty.
  static ByteDfa From(const Dfa& dfa, bool counted = false);
  int32_t Next(int32_t state, uint8_t byte) const {
    return next[static_cast<size_t>(state) * classes + byte_class[byte]];
  }
  std::string Key() const;  // equal for equal automata
};

// What tokens do from one state of a leaf.
struct LeafMask {
  struct Entry {       // a token may leave the leaf at this node and go on
    uint32_t node;
    uint32_t chars;    // begun before (counted leaves)
  };
  std::vector<Entry> entries;

  // Tokens that stay inside, as bits, or as a list if they are few.
  bool is_dense = false;
  std::vector<uint32_t> bits;
  std::vector<int32_t> tokens;

  // Counted leaves: by_chars[c] = the tokens that begin c characters and do not close the string; those that close it
  // with their last byte stand apart, because the least length counts for them.
  struct Closer {
    int32_t token;
    uint32_t chars;
  };
  std::vector<std::vector<int32_t>> by_chars;
  std::vector<Closer> closers;
};

// Thread-safe.
class LeafDfa {
 public:
  explicit LeafDfa(ByteDfa dfa);

  const ByteDfa& dfa() const { return dfa_; }

  // The mask of a state, found at the first call (milliseconds for a wide state of a large vocabulary).
  const LeafMask& Mask(int32_t state, const TokenVocabulary& vocabulary);

  // Sets the bits of the tokens that stay inside from `state` when so many characters may or must yet begin.
  void AddInside(int32_t state, uint32_t min_chars, uint32_t max_chars, const TokenVocabulary& vocabulary,
                 uint32_t* bits);

 private:
  std::unique_ptr<LeafMask> ComputeMask(int32_t state, const TokenVocabulary& vocabulary) const;
  const std::vector<uint32_t>& BitsWithin(int32_t state, uint32_t max_chars, const LeafMask& mask, size_t words);

  const ByteDfa dfa_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<LeafMask>> masks_;
  // [states][max_chars]: the bits of tokens that begin at most so many characters.
  std::vector<std::vector<std::vector<uint32_t>>> within_;
};

}  // namespace minimo::grammar
