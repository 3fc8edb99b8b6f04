#include <algorithm>

#include "grammar/schema_compiler.h"
#include "grammar/utf8_bytes.h"

namespace minimo::grammar {
namespace {

// Bounded, so that a model cannot write blanks for ever: at most one space, or a line end and indentation.
constexpr int kMaxIndent = 64;

Result<Dfa> WhitespaceDfa() {
  Nfa nfa;
  nfa.start = nfa.Add();
  const int32_t space = nfa.Add();
  nfa.Link(nfa.start, ' ', space);
  int32_t at = nfa.Add();
  nfa.Link(nfa.start, '\n', at);
  for (int i = 0; i < kMaxIndent; ++i) {
    const int32_t next = nfa.Add();
    nfa.Link(at, CharSet{{'\t', '\t'}, {' ', ' '}}, next);
    at = next;
  }
  for (Nfa::State& state : nfa.states) state.accepting = true;
  return Determinize(nfa, /*minimise=*/false);
}

}  // namespace

ExprId JsonExprs::Whitespace() {
  if (!flexible_) return builder_.Empty();
  if (whitespace_.has_value()) return *whitespace_;
  static const Result<Dfa> dfa = WhitespaceDfa();
  whitespace_ = dfa.ok() ? builder_.Leaf(*dfa, /*keep=*/true) : builder_.Empty();
  return *whitespace_;
}

ExprId JsonExprs::Spaced(const std::string& text) {
  const auto known = spaced_.find(text);
  if (known != spaced_.end()) return known->second;
  std::vector<ExprId> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\x01', begin), text.size());
    parts.push_back(builder_.Literal(std::string_view(text).substr(begin, end - begin)));
    if (end < text.size()) parts.push_back(Whitespace());
    begin = end + 1;
  }
  return spaced_[text] = builder_.Sequence(std::move(parts));
}

ExprId JsonExprs::AnyValue(int depth) {
  const auto known = values_.find(depth);
  if (known != values_.end()) return known->second;
  std::vector<ExprId> kinds = {AnyString(), builder_.Literal("true"), builder_.Literal("false"),
                               builder_.Literal("null")};
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
