#include <algorithm>

#include "text/jinja/builtins.h"
#include "text/jinja/parser_impl.h"

namespace minimo::jinja {

ExprResult Parser::ParseTuple(TupleEnd end, bool with_condition, bool simple, bool with_namespace) {
  const auto at_end = [&] {
    if (Is(TokenKind::kVariableEnd) || Is(TokenKind::kBlockEnd) || IsOp(")")) return true;
    return (end == TupleEnd::kIn && IsName("in")) || (end == TupleEnd::kRecursive && IsName("recursive"));
  };
  std::vector<const Expr*> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) MINIMO_TRY(ExpectOp(","));
    if (at_end()) break;
    MINIMO_ASSIGN(const Expr* item, simple ? ParsePrimary(with_namespace) : ParseExpression(with_condition));
    items.push_back(item);
    if (!IsOp(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return items[0];
    if (end != TupleEnd::kParenthesis) {
      return Fail(fmt::format("Expected an expression, got '{}'", Describe(Current())));
    }
  }
  Expr* tuple = NewExpr(Expr::Kind::kTuple);
  tuple->items = std::move(items);
  return tuple;
}

ExprResult Parser::ParseExpression(bool with_condition) { return with_condition ? ParseCondition() : ParseOr(); }

ExprResult Parser::ParseCondition() {
  Depth depth(*this);
  if (depth.TooDeep()) return FailDepth();
  const size_t unknown = unknown_.size();
  MINIMO_ASSIGN(const Expr* value, ParseOr());
  if (!IsName("if")) return value;
  while (SkipName("if")) {
    Expr* condition = NewExpr(Expr::Kind::kCondition);
    MINIMO_ASSIGN(condition->a, ParseOr());
    condition->b = value;
    if (SkipName("else")) {
      MINIMO_ASSIGN(condition->c, ParseCondition());
    }
    value = condition;
  }
  Soften(unknown);
  return value;
}

ExprResult Parser::ParseOr() {
  Depth depth(*this);
  if (depth.TooDeep()) return FailDepth();
  MINIMO_ASSIGN(const Expr* left, ParseAnd());
  while (SkipName("or")) {
    Expr* node = NewExpr(Expr::Kind::kOr);
    node->a = left;
    MINIMO_ASSIGN(node->b, ParseAnd());
    left = node;
  }
  return left;
}

ExprResult Parser::ParseAnd() {
  MINIMO_ASSIGN(const Expr* left, ParseNot());
  while (SkipName("and")) {
    Expr* node = NewExpr(Expr::Kind::kAnd);
    node->a = left;
    MINIMO_ASSIGN(node->b, ParseNot());
    left = node;
  }
  return left;
}

ExprResult Parser::ParseNot() {
  if (!IsName("not")) return ParseCompare();
  Depth depth(*this);
  if (depth.TooDeep()) return FailDepth();
  Expr* node = NewExpr(Expr::Kind::kNot);
  Skip();
  MINIMO_ASSIGN(node->a, ParseNot());
  return node;
}

bool Parser::AtCompareOp(CompareOp* op, size_t* tokens) const {
  static constexpr std::pair<std::string_view, CompareOp> kOps[] = {{"==", CompareOp::kEq}, {"!=", CompareOp::kNe},
                                                                    {">", CompareOp::kGt},  {">=", CompareOp::kGe},
                                                                    {"<", CompareOp::kLt},  {"<=", CompareOp::kLe}};
  *tokens = 1;
  for (const auto& [text, compare] : kOps) {
    if (IsOp(text)) return *op = compare, true;
  }
  if (IsName("in")) return *op = CompareOp::kIn, true;
  if (!IsName("not") || Next().kind != TokenKind::kName || Next().text != "in") return false;
  *op = CompareOp::kNotIn;
  *tokens = 2;
  return true;
}

ExprResult Parser::ParseCompare() {
  MINIMO_ASSIGN(const Expr* first, ParseSum());
  CompareOp op;
  size_t tokens;
  if (!AtCompareOp(&op, &tokens)) return first;
  Expr* node = NewExpr(Expr::Kind::kCompare);
  node->a = first;
  while (AtCompareOp(&op, &tokens)) {
    Skip(tokens);
    MINIMO_ASSIGN(const Expr* operand, ParseSum());
    node->ops.push_back(op);
    node->items.push_back(operand);
  }
  return node;
}

ExprResult Parser::Binary(BinaryOp op, const Expr* left, const Expr* right) {
  Expr* node = NewExpr(Expr::Kind::kBinary);
  node->binary_op = op;
  node->a = left;
  node->b = right;
  return node;
}

ExprResult Parser::ParseSum() {
  MINIMO_ASSIGN(const Expr* left, ParseConcat());
  while (IsOp("+") || IsOp("-")) {
    const BinaryOp op = IsOp("+") ? BinaryOp::kAdd : BinaryOp::kSub;
    Skip();
    MINIMO_ASSIGN(const Expr* right, ParseConcat());
    MINIMO_ASSIGN(left, Binary(op, left, right));
  }
  return left;
}

ExprResult Parser::ParseConcat() {
  MINIMO_ASSIGN(const Expr* first, ParseProduct());
  if (!IsOp("~")) return first;
  Expr* node = NewExpr(Expr::Kind::kConcat);
  node->items.push_back(first);
  while (SkipOp("~")) {
    MINIMO_ASSIGN(const Expr* item, ParseProduct());
    node->items.push_back(item);
  }
  return node;
}

ExprResult Parser::ParseProduct() {
  MINIMO_ASSIGN(const Expr* left, ParsePower());
  while (IsOp("*") || IsOp("/") || IsOp("//") || IsOp("%")) {
    const BinaryOp op = IsOp("*")    ? BinaryOp::kMul
                        : IsOp("/")  ? BinaryOp::kDiv
                        : IsOp("//") ? BinaryOp::kFloorDiv
                                     : BinaryOp::kMod;
    Skip();
    MINIMO_ASSIGN(const Expr* right, ParsePower());
    MINIMO_ASSIGN(left, Binary(op, left, right));
  }
  return left;
}

ExprResult Parser::ParsePower() {
  MINIMO_ASSIGN(const Expr* left, ParseUnary());
  while (SkipOp("**")) {
    MINIMO_ASSIGN(const Expr* right, ParseUnary());
    MINIMO_ASSIGN(left, Binary(BinaryOp::kPow, left, right));
  }
  return left;
}

ExprResult Parser::ParseUnary(bool with_filter) {
  const Expr* node = nullptr;
  if (IsOp("-") || IsOp("+")) {
    Depth depth(*this);
    if (depth.TooDeep()) return FailDepth();
    Expr* unary = NewExpr(IsOp("-") ? Expr::Kind::kNeg : Expr::Kind::kPos);
    Skip();
    MINIMO_ASSIGN(unary->a, ParseUnary(false));
    node = unary;
  } else {
    MINIMO_ASSIGN(node, ParsePrimary());
  }
  MINIMO_ASSIGN(node, ParsePostfix(node));
  if (!with_filter) return node;
  return ParseFilterAndTests(node);
}

ExprResult Parser::ParseNamePrimary(bool with_namespace) {
  const std::string name = Current().text;
  const bool is_true = name == "true" || name == "True";
  if (is_true || name == "false" || name == "False" || name == "none" || name == "None") {
    Expr* node = NewExpr(Expr::Kind::kConst);
    if (name != "none" && name != "None") node->constant = Value::Bool(is_true);
    Skip();
    return node;
  }
  Expr* node = NewExpr(Expr::Kind::kName);
  node->text = name;
  Skip();
  if (with_namespace && SkipOp(".")) {
    node->kind = Expr::Kind::kNamespaceRef;
    MINIMO_ASSIGN(node->attribute, TakeName());
    return node;
  }
  for (Signature* signature : signatures_) {
    signature->uses_varargs |= name == "varargs";
    signature->uses_kwargs |= name == "kwargs";
    signature->uses_caller |= name == "caller";
  }
  return node;
}

ExprResult Parser::ParsePrimary(bool with_namespace) {
  switch (Current().kind) {
    case TokenKind::kName: return ParseNamePrimary(with_namespace);
    case TokenKind::kString: {
      Expr* node = NewExpr(Expr::Kind::kConst);
      std::string text;
      for (; Is(TokenKind::kString); Skip()) text += Current().text;
      node->constant = Value::String(std::move(text));
      return node;
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat: {
      Expr* node = NewExpr(Expr::Kind::kConst);
      node->constant = Is(TokenKind::kInteger) ? Value::Int(Current().integer) : Value::Float(Current().number);
      Skip();
      return node;
    }
    default: break;
  }
  if (IsOp("[")) return ParseListLiteral();
  if (IsOp("{")) return ParseDictLiteral();
  if (!SkipOp("(")) return Fail(fmt::format("unexpected '{}'", Describe(Current())));
  Depth depth(*this);
  if (depth.TooDeep()) return FailDepth();
  MINIMO_ASSIGN(const Expr* node, ParseTuple(TupleEnd::kParenthesis, true));
  MINIMO_TRY(ExpectOp(")"));
  return node;
}

ExprResult Parser::ParseListLiteral() {
  Expr* node = NewExpr(Expr::Kind::kList);
  Skip();
  while (!IsOp("]")) {
    if (!node->items.empty()) MINIMO_TRY(ExpectOp(","));
    if (IsOp("]")) break;
    MINIMO_ASSIGN(const Expr* item, ParseExpression());
    node->items.push_back(item);
  }
  Skip();
  return node;
}

ExprResult Parser::ParseDictLiteral() {
  Expr* node = NewExpr(Expr::Kind::kDict);
  Skip();
  while (!IsOp("}")) {
    if (!node->items.empty()) MINIMO_TRY(ExpectOp(","));
    if (IsOp("}")) break;
    MINIMO_ASSIGN(const Expr* key, ParseExpression());
    MINIMO_TRY(ExpectOp(":"));
    MINIMO_ASSIGN(const Expr* value, ParseExpression());
    node->items.push_back(key);
    node->items.push_back(value);
  }
  Skip();
  return node;
}

ExprResult Parser::ParseCall(const Expr* callee) {
  Expr* call = NewExpr(Expr::Kind::kCall);
  call->a = callee;
  MINIMO_TRY(ParseCallArgs(call->args));
  return call;
}

ExprResult Parser::ParsePostfix(const Expr* node) {
  while (true) {
    if (IsOp(".") || IsOp("[")) {
      MINIMO_ASSIGN(node, ParseSubscript(node));
    } else if (IsOp("(")) {
      MINIMO_ASSIGN(node, ParseCall(node));
    } else {
      return node;
    }
  }
}

ExprResult Parser::ParseFilterAndTests(const Expr* node) {
  while (true) {
    if (IsOp("|")) {
      MINIMO_ASSIGN(node, ParseFilters(node, false));
    } else if (IsName("is")) {
      MINIMO_ASSIGN(node, ParseTest(node));
    } else if (IsOp("(")) {
      MINIMO_ASSIGN(node, ParseCall(node));
    } else {
      return node;
    }
  }
}

ExprResult Parser::ParseSubscript(const Expr* node) {
  if (SkipOp(".")) {
    if (Is(TokenKind::kName)) {
      Expr* attribute = NewExpr(Expr::Kind::kGetAttr);
      attribute->a = node;
      attribute->text = Current().text;
      Skip();
      return attribute;
    }
    if (!Is(TokenKind::kInteger)) return Fail("expected name or number");
    Expr* index = NewExpr(Expr::Kind::kConst);
    index->constant = Value::Int(Current().integer);
    Skip();
    Expr* item = NewExpr(Expr::Kind::kGetItem);
    item->a = node;
    item->b = index;
    return item;
  }
  Expr* item = NewExpr(Expr::Kind::kGetItem);
  item->a = node;
  MINIMO_TRY(ExpectOp("["));
  std::vector<const Expr*> parts;
  while (!IsOp("]")) {
    if (!parts.empty()) MINIMO_TRY(ExpectOp(","));
    MINIMO_ASSIGN(const Expr* part, ParseSubscribed());
    parts.push_back(part);
  }
  Skip();
  if (parts.size() == 1) {
    item->b = parts[0];
  } else {
    Expr* tuple = NewExpr(Expr::Kind::kTuple);
    tuple->items = std::move(parts);
    item->b = tuple;
  }
  return item;
}

ExprResult Parser::ParseSubscribed() {
  const Expr* start = nullptr;
  if (!IsOp(":")) {
    MINIMO_ASSIGN(start, ParseExpression());
    if (!IsOp(":")) return start;
  }
  Skip();
  Expr* slice = NewExpr(Expr::Kind::kSlice);
  slice->a = start;
  const auto at_end = [this] { return IsOp("]") || IsOp(","); };
  if (!IsOp(":") && !at_end()) {
    MINIMO_ASSIGN(slice->b, ParseExpression());
  }
  if (SkipOp(":") && !at_end()) {
    MINIMO_ASSIGN(slice->c, ParseExpression());
  }
  return slice;
}

Status Parser::ParseCallArgs(CallArgs& args) {
  const Error invalid = Fail("invalid syntax for function call expression");
  MINIMO_TRY(ExpectOp("("));
  for (bool first = true; !IsOp(")"); first = false) {
    if (!first) {
      MINIMO_TRY(ExpectOp(","));
      if (IsOp(")")) break;
    }
    if (SkipOp("*")) {
      if (args.star != nullptr || args.star_star != nullptr) return invalid;
      MINIMO_ASSIGN(args.star, ParseExpression());
    } else if (SkipOp("**")) {
      if (args.star_star != nullptr) return invalid;
      MINIMO_ASSIGN(args.star_star, ParseExpression());
    } else if (Is(TokenKind::kName) && Next().kind == TokenKind::kOperator && Next().text == "=") {
      if (args.star_star != nullptr) return invalid;
      std::string name = Current().text;
      Skip(2);
      MINIMO_ASSIGN(const Expr* value, ParseExpression());
      args.keyword.emplace_back(std::move(name), value);
    } else {
      if (args.star != nullptr || args.star_star != nullptr || !args.keyword.empty()) return invalid;
      MINIMO_ASSIGN(const Expr* value, ParseExpression());
      args.positional.push_back(value);
    }
  }
  Skip();
  return {};
}

Result<std::string> Parser::ParseDottedName() {
  MINIMO_ASSIGN(std::string name, TakeName());
  while (SkipOp(".")) {
    MINIMO_ASSIGN(const std::string part, TakeName());
    name += "." + part;
  }
  return name;
}

ExprResult Parser::ParseFilters(const Expr* node, bool start_inline) {
  while (IsOp("|") || start_inline) {
    if (!start_inline) Skip();
    start_inline = false;
    Expr* filter = NewExpr(Expr::Kind::kFilter);
    filter->a = node;
    MINIMO_ASSIGN(filter->text, ParseDottedName());
    if (FindFilter(filter->text) == nullptr) {
      unknown_.push_back({Fail(fmt::format("No filter named '{}'.", filter->text)), false});
    }
    if (IsOp("(")) MINIMO_TRY(ParseCallArgs(filter->args));
    node = filter;
  }
  return node;
}

ExprResult Parser::ParseTest(const Expr* node) {
  Skip();
  const bool negated = SkipName("not");
  Expr* test = NewExpr(Expr::Kind::kTest);
  test->a = node;
  MINIMO_ASSIGN(test->text, ParseDottedName());
  if (FindTest(test->text) == nullptr)
    unknown_.push_back({Fail(fmt::format("No test named '{}'.", test->text)), false});
  const bool starts_operand = Is(TokenKind::kName) || Is(TokenKind::kString) || Is(TokenKind::kInteger) ||
                              Is(TokenKind::kFloat) || IsOp("[") || IsOp("{");
  if (IsOp("(")) {
    MINIMO_TRY(ParseCallArgs(test->args));
  } else if (starts_operand && !IsName("else") && !IsName("or") && !IsName("and")) {
    if (IsName("is")) return Fail("You cannot chain multiple tests with is");
    MINIMO_ASSIGN(const Expr* operand, ParsePrimary());
    MINIMO_ASSIGN(operand, ParsePostfix(operand));
    test->args.positional.push_back(operand);
  }
  if (!negated) return test;
  Expr* negation = NewExpr(Expr::Kind::kNot);
  negation->a = test;
  return negation;
}

}  // namespace minimo::jinja
