// A context-free grammar over bytes: sequences, alternatives, counted repeats and recursive rules over regular leaves.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/leaf.h"
#include "grammar/vocabulary.h"
#include "minimo/result.h"

namespace minimo::grammar {

using ExprId = uint32_t;
inline constexpr uint32_t kUnbounded = UINT32_MAX;
inline constexpr uint32_t kInfiniteLength = UINT32_MAX;  // no text at all

struct Expr {
  enum class Kind : uint8_t { kEmpty, kNever, kLeaf, kSequence, kAlternatives, kRepeat, kRule };
  Kind kind = Kind::kEmpty;
  std::vector<ExprId> children;           // of sequences and alternatives; [0]: the repeated, the rule's body
  uint32_t min = 0, max = kUnbounded;     // of repeats; of characters in counted leaves
  uint32_t leaf = 0;                      // index of Grammar::leaves
  uint32_t min_bytes = kInfiniteLength;   // of the shortest text; kInfiniteLength: there is none
};

// Immutable once finished.
struct Grammar {
  std::shared_ptr<const TokenVocabulary> vocabulary;
  std::vector<Expr> exprs;
  std::vector<std::shared_ptr<LeafDfa>> leaves;
  ExprId root = 0;
};

// Builds a Grammar. Sizes are bounded; beyond the bound every call gives kNever and Finish an error.
class GrammarBuilder {
 public:
  explicit GrammarBuilder(std::shared_ptr<const TokenVocabulary> vocabulary);

  const TokenVocabulary& vocabulary() const { return *grammar_.vocabulary; }

  ExprId Empty() const { return 0; }
  ExprId Never() const { return 1; }
  bool IsNever(ExprId id) const { return id == Never(); }
  ExprId Leaf(const Dfa& bytes, bool keep = false);
  ExprId StringBody(uint32_t min_chars, uint32_t max_chars);  // any JSON string after its opening quote
  ExprId Literal(std::string_view bytes);
  // A tag as its own token where the vocabulary has one, else as text.
  ExprId Tag(std::string_view text);
  ExprId Sequence(std::vector<ExprId> children);
  ExprId Alternatives(std::vector<ExprId> children);
  ExprId Repeat(ExprId child, uint32_t min, uint32_t max);
  ExprId Optional(ExprId child) { return Alternatives({child, Empty()}); }

  // A rule to refer to before its body is known.
  ExprId NewRule();
  void SetRule(ExprId rule, ExprId body);

  bool TooLarge() const { return too_large_; }

  // Errors: too large; no text fits.
  Result<std::shared_ptr<const Grammar>> Finish(ExprId root);

  // For looking at a part while building: the shortest lengths of everything made so far.
  void ComputeLengths();
  const Grammar& grammar() const { return grammar_; }

 private:
  ExprId Add(Expr expr);

  Grammar grammar_;
  size_t leaf_states_ = 0;
  bool too_large_ = false;
};

}  // namespace minimo::grammar
