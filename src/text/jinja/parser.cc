#include "text/jinja/parser.h"

#include <algorithm>

#include "text/jinja/parser_impl.h"

namespace minimo::jinja {

Result<std::shared_ptr<const Tree>> ParseTemplate(std::string_view source) {
  MINIMO_ASSIGN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

Result<std::shared_ptr<const Tree>> Parser::Run() {
  MINIMO_ASSIGN(tree_->body, ParseBody({}));
  if (!unknown_.empty()) return unknown_[0].error;
  return std::shared_ptr<const Tree>(tree_);
}

bool Parser::SkipOp(std::string_view op) {
  if (!IsOp(op)) return false;
  Skip();
  return true;
}

bool Parser::SkipName(std::string_view name) {
  if (!IsName(name)) return false;
  Skip();
  return true;
}

Status Parser::Expect(TokenKind kind) {
  Token wanted;
  wanted.kind = kind;
  if (!Is(kind)) {
    if (Is(TokenKind::kEnd)) return Fail(fmt::format("unexpected end of template, expected '{}'.", Describe(wanted)));
    return Fail(fmt::format("expected token '{}', got '{}'", Describe(wanted), Describe(Current())));
  }
  Skip();
  return {};
}

Status Parser::ExpectOp(std::string_view op) {
  if (SkipOp(op)) return {};
  if (Is(TokenKind::kEnd)) return Fail(fmt::format("unexpected end of template, expected '{}'.", op));
  return Fail(fmt::format("expected token '{}', got '{}'", op, Describe(Current())));
}

Status Parser::ExpectName(std::string_view name) {
  if (SkipName(name)) return {};
  if (Is(TokenKind::kEnd)) return Fail(fmt::format("unexpected end of template, expected '{}'.", name));
  return Fail(fmt::format("expected token '{}', got '{}'", name, Describe(Current())));
}

Result<std::string> Parser::TakeName() {
  if (!Is(TokenKind::kName)) {
    if (Is(TokenKind::kEnd)) return Fail("unexpected end of template, expected 'name'.");
    return Fail(fmt::format("expected token 'name', got '{}'", Describe(Current())));
  }
  std::string name = Current().text;
  Skip();
  return name;
}

Error Parser::FailUnknownTag(const std::string* tag) const {
  std::string message =
      tag == nullptr ? "Unexpected end of template." : fmt::format("Encountered unknown tag '{}'.", *tag);
  if (!end_tags_.empty()) {
    std::string looking;
    for (const std::string& name : end_tags_.back()) looking += (looking.empty() ? "'" : " or '") + name + "'";
    const bool misplaced = tag != nullptr && std::any_of(end_tags_.begin(), end_tags_.end(), [tag](const Names& names) {
                             return std::find(names.begin(), names.end(), *tag) != names.end();
                           });
    message += misplaced
                   ? " You probably made a nesting mistake. Jinja is expecting this tag, but currently looking for " +
                         looking + "."
                   : " Jinja was looking for the following tags: " + looking + ".";
  }
  if (!open_tags_.empty()) {
    message += fmt::format(" The innermost block that needs to be closed is '{}'.", open_tags_.back());
  }
  return Fail(message);
}

void Parser::Soften(size_t from) {
  const auto begin = unknown_.begin() + static_cast<std::ptrdiff_t>(from);
  unknown_.erase(std::remove_if(begin, unknown_.end(), [](const Unknown& u) { return !u.firm; }), unknown_.end());
}

void Parser::MakeFirm(size_t from) {
  for (size_t i = from; i < unknown_.size(); ++i) unknown_[i].firm = true;
}

Expr* Parser::NewExpr(Expr::Kind kind) {
  tree_->exprs.push_back(std::make_unique<Expr>());
  Expr* node = tree_->exprs.back().get();
  node->kind = kind;
  node->line = Current().line;
  return node;
}

Stmt* Parser::NewStmt(Stmt::Kind kind) {
  tree_->stmts.push_back(std::make_unique<Stmt>());
  Stmt* node = tree_->stmts.back().get();
  node->kind = kind;
  node->line = Current().line;
  return node;
}

Result<Block> Parser::ParseBody(const Names& end_tags) {
  Depth depth(*this);
  if (depth.TooDeep()) return FailDepth();
  Block body;
  while (!Is(TokenKind::kEnd)) {
    if (Is(TokenKind::kData)) {
      Stmt* text = NewStmt(Stmt::Kind::kText);
      text->text = Current().text;
      Skip();
      body.push_back(text);
    } else if (Is(TokenKind::kVariableBegin)) {
      Stmt* print = NewStmt(Stmt::Kind::kPrint);
      Skip();
      MINIMO_ASSIGN(print->a, ParseTuple(TupleEnd::kTag, true));
      MINIMO_TRY(Expect(TokenKind::kVariableEnd));
      body.push_back(print);
    } else {
      MINIMO_TRY(Expect(TokenKind::kBlockBegin));
      if (Is(TokenKind::kName) && std::find(end_tags.begin(), end_tags.end(), Current().text) != end_tags.end()) {
        return body;
      }
      MINIMO_ASSIGN(const Stmt* statement, ParseStatement());
      body.push_back(statement);
      MINIMO_TRY(Expect(TokenKind::kBlockEnd));
    }
  }
  if (!end_tags.empty()) return FailUnknownTag(nullptr);
  return body;
}

Result<Block> Parser::ParseBlock(const Names& end_tags) {
  SkipOp(":");
  MINIMO_TRY(Expect(TokenKind::kBlockEnd));
  end_tags_.push_back(end_tags);
  Result<Block> body = ParseBody(end_tags);
  end_tags_.pop_back();
  return body;
}

Result<Block> Parser::ParseBlockThrough(const std::string& end) {
  MINIMO_ASSIGN(Block body, ParseBlock({end}));
  Skip();
  return body;
}

StmtResult Parser::ParseStatement() {
  if (!Is(TokenKind::kName)) return Fail("tag name expected");
  const std::string tag = Current().text;
  open_tags_.push_back(tag);
  bool known = true;
  StmtResult result = ParseKnownStatement(tag, &known);
  open_tags_.pop_back();
  if (!known) return FailUnknownTag(&tag);
  return result;
}

StmtResult Parser::ParseKnownStatement(const std::string& tag, bool* known) {
  if (tag == "if") return ParseIf();
  if (tag == "for") return ParseFor();
  if (tag == "set") return ParseSet();
  if (tag == "macro") return ParseMacro();
  if (tag == "call") return ParseCallBlock();
  if (tag == "filter") return ParseFilterBlock();
  if (tag == "with") return ParseWith();
  if (tag == "block") return ParseNamedBlock();
  if (tag == "generation") return ParseGeneration();
  if (tag == "break" || tag == "continue") return ParseLoopControl();
  if (tag == "print") {
    Stmt* print = NewStmt(Stmt::Kind::kPrint);
    Skip();
    MINIMO_ASSIGN(print->a, ParseExpression());
    return print;
  }
  // There are no other templates: an error when it is reached.
  if (tag == "extends" || tag == "include" || tag == "import" || tag == "from") {
    Stmt* fail = NewStmt(Stmt::Kind::kFail);
    fail->text = "no loader for this environment specified";
    while (!Is(TokenKind::kBlockEnd) && !Is(TokenKind::kEnd)) Skip();
    return fail;
  }
  if (tag == "autoescape") return Fail("'autoescape' blocks are not supported; chat templates are plain text");
  *known = false;
  return Error{};
}

StmtResult Parser::ParseIf() {
  Stmt* node = NewStmt(Stmt::Kind::kIf);
  const size_t unknown = unknown_.size();
  Skip();
  while (true) {
    MINIMO_ASSIGN(const Expr* test, ParseTuple(TupleEnd::kTag, false));
    MINIMO_ASSIGN(Block body, ParseBlock({"elif", "else", "endif"}));
    node->branches.emplace_back(test, std::move(body));
    if (!SkipName("elif")) break;
  }
  if (SkipName("else")) {
    MINIMO_ASSIGN(Block body, ParseBlockThrough("endif"));
    node->branches.emplace_back(nullptr, std::move(body));
  } else {
    Skip();
  }
  Soften(unknown);
  return node;
}

StmtResult Parser::ParseFor() {
  Stmt* node = NewStmt(Stmt::Kind::kFor);
  const size_t unknown = unknown_.size();
  Skip();
  MINIMO_ASSIGN(node->target, ParseTarget(false, true));
  const bool takes_loop = node->target->kind == Expr::Kind::kName && node->target->text == "loop";
  if (takes_loop) return Fail("Can't assign to special loop variable in for-loop target");
  MINIMO_TRY(ExpectName("in"));
  MINIMO_ASSIGN(node->a, ParseTuple(TupleEnd::kRecursive, false));
  if (SkipName("if")) {
    MINIMO_ASSIGN(node->b, ParseExpression());
  }
  node->recursive = SkipName("recursive");
  ++loops_;
  Result<Block> body = ParseBlock({"endfor", "else"});
  --loops_;
  MINIMO_ASSIGN(node->body, std::move(body));
  if (SkipName("else")) {
    MINIMO_ASSIGN(node->else_body, ParseBlockThrough("endfor"));
  } else {
    Skip();
  }
  MakeFirm(unknown);
  return node;
}

StmtResult Parser::ParseSet() {
  Stmt* node = NewStmt(Stmt::Kind::kSet);
  Skip();
  MINIMO_ASSIGN(node->target, ParseTarget(true, false));
  if (SkipOp("=")) {
    MINIMO_ASSIGN(node->a, ParseTuple(TupleEnd::kTag, true));
    return node;
  }
  node->kind = Stmt::Kind::kSetBlock;
  MINIMO_ASSIGN(node->a, ParseFilters(nullptr, false));
  MINIMO_ASSIGN(node->body, ParseBlockThrough("endset"));
  return node;
}

Result<const Expr*> Parser::ParseTarget(bool with_namespace, bool ends_at_in) {
  const TupleEnd end = ends_at_in ? TupleEnd::kIn : TupleEnd::kTag;
  MINIMO_ASSIGN(const Expr* target, ParseTuple(end, false, true, with_namespace));
  std::vector<const Expr*> pending = {target};
  while (!pending.empty()) {
    const Expr* node = pending.back();
    pending.pop_back();
    switch (node->kind) {
      case Expr::Kind::kName:
      case Expr::Kind::kNamespaceRef: break;
      case Expr::Kind::kTuple: pending.insert(pending.end(), node->items.begin(), node->items.end()); break;
      case Expr::Kind::kConst: return Fail("can't assign to 'const'");
      case Expr::Kind::kList: return Fail("can't assign to 'list'");
      case Expr::Kind::kDict: return Fail("can't assign to 'dict'");
      default: return Fail("can't assign to an expression");
    }
  }
  return target;
}

Status Parser::ParseSignature(Signature& signature) {
  MINIMO_TRY(ExpectOp("("));
  while (!IsOp(")")) {
    if (!signature.names.empty()) MINIMO_TRY(ExpectOp(","));
    MINIMO_ASSIGN(std::string name, TakeName());
    if (SkipOp("=")) {
      MINIMO_ASSIGN(const Expr* value, ParseExpression());
      signature.defaults.push_back(value);
    } else if (!signature.defaults.empty()) {
      return Fail("non-default argument follows default argument");
    }
    signature.names.push_back(std::move(name));
  }
  Skip();
  return {};
}

Result<Block> Parser::ParseFunctionBody(const std::string& end, Signature& signature) {
  const size_t unknown = unknown_.size();
  const int loops = std::exchange(loops_, 0);
  signatures_.push_back(&signature);
  Result<Block> body = ParseBlockThrough(end);
  signatures_.pop_back();
  loops_ = loops;
  MakeFirm(unknown);
  return body;
}

StmtResult Parser::ParseMacro() {
  Stmt* node = NewStmt(Stmt::Kind::kMacro);
  Skip();
  MINIMO_ASSIGN(node->text, TakeName());
  MINIMO_TRY(ParseSignature(node->signature));
  MINIMO_ASSIGN(node->body, ParseFunctionBody("endmacro", node->signature));
  return node;
}

StmtResult Parser::ParseCallBlock() {
  Stmt* node = NewStmt(Stmt::Kind::kCallBlock);
  Skip();
  if (IsOp("(")) MINIMO_TRY(ParseSignature(node->signature));
  MINIMO_ASSIGN(node->a, ParseExpression());
  if (node->a->kind != Expr::Kind::kCall) return Fail("expected call");
  MINIMO_ASSIGN(node->body, ParseFunctionBody("endcall", node->signature));
  return node;
}

StmtResult Parser::ParseFilterBlock() {
  Stmt* node = NewStmt(Stmt::Kind::kFilterBlock);
  const size_t unknown = unknown_.size();
  Skip();
  MINIMO_ASSIGN(node->a, ParseFilters(nullptr, true));
  MINIMO_ASSIGN(node->body, ParseBlockThrough("endfilter"));
  MakeFirm(unknown);
  return node;
}

StmtResult Parser::ParseWith() {
  Stmt* node = NewStmt(Stmt::Kind::kWith);
  const size_t unknown = unknown_.size();
  Skip();
  while (!Is(TokenKind::kBlockEnd)) {
    if (!node->targets.empty()) MINIMO_TRY(ExpectOp(","));
    MINIMO_ASSIGN(const Expr* target, ParseTarget(false, false));
    MINIMO_TRY(ExpectOp("="));
    MINIMO_ASSIGN(const Expr* value, ParseExpression());
    node->targets.push_back(target);
    node->values.push_back(value);
  }
  MINIMO_ASSIGN(node->body, ParseBlockThrough("endwith"));
  MakeFirm(unknown);
  return node;
}

// With nothing to inherit from, a named block is its body.
StmtResult Parser::ParseNamedBlock() {
  Stmt* node = NewStmt(Stmt::Kind::kScope);
  Skip();
  MINIMO_ASSIGN(const std::string name, TakeName());
  SkipName("scoped");
  SkipName("required");
  MINIMO_ASSIGN(node->body, ParseBlockThrough("endblock"));
  SkipName(name);
  return node;
}

// Marks what the assistant wrote, for training; the text is the body.
StmtResult Parser::ParseGeneration() {
  Stmt* node = NewStmt(Stmt::Kind::kScope);
  Skip();
  const int loops = std::exchange(loops_, 0);
  Result<Block> body = ParseBlockThrough("endgeneration");
  loops_ = loops;
  MINIMO_ASSIGN(node->body, std::move(body));
  return node;
}

StmtResult Parser::ParseLoopControl() {
  const bool is_break = IsName("break");
  if (loops_ == 0) return Fail(fmt::format("'{}' outside a loop", Current().text));
  Stmt* node = NewStmt(is_break ? Stmt::Kind::kBreak : Stmt::Kind::kContinue);
  Skip();
  return node;
}

}  // namespace minimo::jinja
