#include "grammar/schema_compiler.h"
#include "grammar/utf8_bytes.h"

namespace minimo::grammar {
namespace {

// Bounded, so that a model cannot write blanks for ever: at most one space, or a line end and indentation.
constexpr int kMaxIndent = 64;

int32_t AddWhitespace(Nfa* nfa, int32_t from) {
  const int32_t to = nfa->Add();
  nfa->LinkEmpty(from, to);
  nfa->Link(from, ' ', to);
  int32_t at = nfa->Add();
  nfa->Link(from, '\n', at);
  for (int i = 0; i < kMaxIndent; ++i) {
    nfa->LinkEmpty(at, to);
    const int32_t next = nfa->Add();
    nfa->Link(at, CharSet{{'\t', '\t'}, {' ', ' '}}, next);
    at = next;
  }
  nfa->LinkEmpty(at, to);
  return to;
}

}  // namespace

ExprId JsonExprs::Spaced(const std::string& text) {
  const auto known = spaced_.find(text);
  if (known != spaced_.end()) return known->second;
  Nfa nfa;
  nfa.start = nfa.Add();
  int32_t at = nfa.start;
  for (const char c : text) {
    if (c != '\x01') {
      at = nfa.AddBytes(at, std::string_view(&c, 1));
    } else if (flexible_) {
      at = AddWhitespace(&nfa, at);
    }
  }
  nfa.states[static_cast<size_t>(at)].accepting = true;
  const auto dfa = Determinize(nfa);
  const bool common = text.size() <= 4;  // marks of JSON itself: every grammar has them
  return spaced_[text] = dfa.ok() ? builder_.Leaf(*dfa, common) : builder_.Never();
}

ExprId JsonExprs::AnyValue(int depth) {
  const auto known = values_.find(depth);
  if (known != values_.end()) return known->second;
  std::vector<ExprId> kinds = {AnyString(), builder_.Literal("true"), builder_.Literal("false"), builder_.Literal("null")};
  const auto number = NumberDfa({});
  if (number.ok()) kinds.push_back(builder_.Leaf(*number, /*keep=*/true));
  if (depth > 0) {
    kinds.push_back(AnyObject(depth));
    kinds.push_back(AnyArray(depth));
  }
  return values_[depth] = builder_.Alternatives(std::move(kinds));
}

ExprId JsonExprs::AnyObject(int depth) {
  const auto known = objects_.find(depth);
  if (known != objects_.end()) return known->second;
  const ExprId member = builder_.Sequence({AnyString(), Spaced(":\x01"), AnyValue(depth - 1)});
  const ExprId more = builder_.Repeat(builder_.Sequence({Spaced(",\x01"), member}), 0, kUnbounded);
  return objects_[depth] = builder_.Sequence({Spaced("{\x01"), builder_.Optional(builder_.Sequence({member, more})),
                                              Spaced("\x01}")});
}

ExprId JsonExprs::AnyArray(int depth) {
  const auto known = arrays_.find(depth);
  if (known != arrays_.end()) return known->second;
  const ExprId item = AnyValue(depth - 1);
  const ExprId more = builder_.Repeat(builder_.Sequence({Spaced(",\x01"), item}), 0, kUnbounded);
  return arrays_[depth] = builder_.Sequence({Spaced("[\x01"), builder_.Optional(builder_.Sequence({item, more})),
                                             Spaced("\x01]")});
}

}  // namespace minimo::grammar
