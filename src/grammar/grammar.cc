#include "grammar/grammar.h"

#include <algorithm>
#include <queue>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "grammar/utf8_bytes.h"

namespace minimo::grammar {
namespace {

constexpr size_t kMaxExprs = 300'000;
constexpr size_t kMaxLeafStates = 300'000;  // of all leaves of a grammar

uint32_t SaturatingAdd(uint32_t a, uint64_t b) {
  const uint64_t sum = a + b;
  return sum >= kInfiniteLength - 1 ? kInfiniteLength - 1 : static_cast<uint32_t>(sum);
}

}  // namespace

GrammarBuilder::GrammarBuilder(std::shared_ptr<const TokenVocabulary> vocabulary) {
  grammar_.vocabulary = std::move(vocabulary);
  grammar_.exprs.resize(2);
  grammar_.exprs[0].kind = Expr::Kind::kEmpty;
  grammar_.exprs[1].kind = Expr::Kind::kNever;
}

ExprId GrammarBuilder::Add(Expr expr) {
  if (grammar_.exprs.size() >= kMaxExprs || leaf_states_ > kMaxLeafStates) {
    too_large_ = true;
    return Never();
  }
  grammar_.exprs.push_back(std::move(expr));
  return static_cast<ExprId>(grammar_.exprs.size() - 1);
}

ExprId GrammarBuilder::Leaf(const Dfa& bytes, bool keep) {
  if (bytes.empty()) return Never();
  leaf_states_ += bytes.states.size();
  if (leaf_states_ > kMaxLeafStates) {
    too_large_ = true;
    return Never();
  }
  Expr expr;
  expr.kind = Expr::Kind::kLeaf;
  expr.leaf = static_cast<uint32_t>(grammar_.leaves.size());
  grammar_.leaves.push_back(vocabulary().Intern(ByteDfa::From(bytes), keep));
  return Add(std::move(expr));
}

ExprId GrammarBuilder::StringBody(uint32_t min_chars, uint32_t max_chars) {
  static const ByteDfa body = ByteDfa::From(AnyStringBody(), /*counted=*/true);
  Expr expr;
  expr.kind = Expr::Kind::kLeaf;
  expr.leaf = static_cast<uint32_t>(grammar_.leaves.size());
  expr.min = min_chars;
  expr.max = max_chars;
  grammar_.leaves.push_back(vocabulary().Intern(body, /*keep=*/true));
  return Add(std::move(expr));
}

ExprId GrammarBuilder::Literal(std::string_view bytes) {
  if (bytes.empty()) return Empty();
  std::vector<uint32_t> symbols;
  for (const char c : bytes) symbols.push_back(static_cast<uint8_t>(c));
  return Leaf(DfaOfStrings({symbols}));
}

ExprId GrammarBuilder::Tag(std::string_view text) {
  const auto symbols = vocabulary().TagSymbols(text);
  return Literal(symbols.has_value() ? *symbols : text);
}

ExprId GrammarBuilder::Sequence(std::vector<ExprId> children) {
  std::erase(children, Empty());
  if (std::find(children.begin(), children.end(), Never()) != children.end()) return Never();
  if (children.empty()) return Empty();
  if (children.size() == 1) return children[0];
  Expr expr;
  expr.kind = Expr::Kind::kSequence;
  expr.children = std::move(children);
  return Add(std::move(expr));
}

ExprId GrammarBuilder::Alternatives(std::vector<ExprId> children) {
  std::erase(children, Never());
  if (children.empty()) return Never();
  if (children.size() == 1) return children[0];
  Expr expr;
  expr.kind = Expr::Kind::kAlternatives;
  expr.children = std::move(children);
  return Add(std::move(expr));
}

ExprId GrammarBuilder::Repeat(ExprId child, uint32_t min, uint32_t max) {
  if (max < min) return Never();
  if (max == 0 || child == Empty()) return Empty();
  if (IsNever(child)) return min == 0 ? Empty() : Never();
  if (min == 1 && max == 1) return child;
  Expr expr;
  expr.kind = Expr::Kind::kRepeat;
  expr.children = {child};
  expr.min = min;
  expr.max = max;
  return Add(std::move(expr));
}

ExprId GrammarBuilder::NewRule() {
  Expr expr;
  expr.kind = Expr::Kind::kRule;
  expr.children = {Never()};
  return Add(std::move(expr));
}

void GrammarBuilder::SetRule(ExprId rule, ExprId body) {
  if (rule != Never()) grammar_.exprs[rule].children[0] = body;
}

// Knuth's generalisation of Dijkstra's algorithm: an expression's length is final once it is the least one open.
void GrammarBuilder::ComputeLengths() {
  std::vector<Expr>& exprs = grammar_.exprs;
  std::vector<std::vector<ExprId>> users(exprs.size());
  std::vector<uint32_t> missing(exprs.size(), 0);  // of a sequence's children
  using Item = std::pair<uint32_t, ExprId>;
  std::priority_queue<Item, std::vector<Item>, std::greater<>> open;
  for (ExprId id = 0; id < exprs.size(); ++id) {
    Expr& expr = exprs[id];
    expr.min_bytes = kInfiniteLength;
    for (const ExprId child : expr.children) users[child].push_back(id);
    missing[id] = static_cast<uint32_t>(expr.children.size());
    if (expr.kind == Expr::Kind::kEmpty) {
      open.emplace(0, id);
    } else if (expr.kind == Expr::Kind::kLeaf) {
      const ByteDfa& dfa = grammar_.leaves[expr.leaf]->dfa();
      if (!dfa.counted || expr.min <= expr.max)
        open.emplace(SaturatingAdd(dfa.distance[0], dfa.counted ? expr.min : 0), id);
    } else if (expr.kind == Expr::Kind::kRepeat && expr.min == 0) {
      open.emplace(0, id);
    }
  }
  while (!open.empty()) {
    const auto [length, id] = open.top();
    open.pop();
    if (exprs[id].min_bytes != kInfiniteLength) continue;
    exprs[id].min_bytes = length;
    for (const ExprId user : users[id]) {
      const Expr& expr = exprs[user];
      if (expr.min_bytes != kInfiniteLength) continue;
      switch (expr.kind) {
        case Expr::Kind::kAlternatives:
        case Expr::Kind::kRule: open.emplace(length, user); break;
        case Expr::Kind::kRepeat: open.emplace(SaturatingAdd(0, uint64_t{length} * expr.min), user); break;
        case Expr::Kind::kSequence: {
          if (--missing[user] > 0) break;
          uint32_t sum = 0;
          for (const ExprId child : expr.children) sum = SaturatingAdd(sum, exprs[child].min_bytes);
          open.emplace(sum, user);
          break;
        }
        default: break;
      }
    }
  }
}

Result<std::shared_ptr<const Grammar>> GrammarBuilder::Finish(ExprId root) {
  if (too_large_) return Error{"it is too large to be compiled"};
  ComputeLengths();
  if (grammar_.exprs[root].min_bytes == kInfiniteLength) return Error{"nothing satisfies it"};
  grammar_.root = root;
  return std::make_shared<const Grammar>(std::move(grammar_));
}

}  // namespace minimo::grammar
