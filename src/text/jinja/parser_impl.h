// The parser's class, shared by parser.cc (statements) and parser_expr.cc (expressions).
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace minimo::jinja {

// Beyond this many expressions or blocks inside each other a template is refused.
inline constexpr int kMaxParseDepth = 200;

using ExprResult = Result<const Expr*>;
using StmtResult = Result<const Stmt*>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)), tree_(std::make_shared<Tree>()) {}
  Result<std::shared_ptr<const Tree>> Run();

 private:
  using Names = std::vector<std::string>;

  const Token& Current() const { return tokens_[position_]; }
  const Token& Next() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  void Skip(size_t count = 1) { position_ = std::min(position_ + count, tokens_.size() - 1); }
  bool Is(TokenKind kind) const { return Current().kind == kind; }
  bool IsOp(std::string_view op) const { return Is(TokenKind::kOperator) && Current().text == op; }
  bool IsName(std::string_view name) const { return Is(TokenKind::kName) && Current().text == name; }
  bool SkipOp(std::string_view op);
  bool SkipName(std::string_view name);
  Status Expect(TokenKind kind);
  Status ExpectOp(std::string_view op);
  Status ExpectName(std::string_view name);
  Result<std::string> TakeName();
  Error Fail(std::string message) const { return Errorf("line {}: {}", Current().line, message); }
  Error FailUnknownTag(const std::string* tag) const;

  // Of the unknown filters and tests found since there were `from`: forget those that are not firm, or make all firm.
  void Soften(size_t from);
  void MakeFirm(size_t from);

  Expr* NewExpr(Expr::Kind kind);
  Stmt* NewStmt(Stmt::Kind kind);

  // Statements. A body ends before the name of its end tag, which is left as the current token.
  Result<Block> ParseBody(const Names& end_tags);
  Result<Block> ParseBlock(const Names& end_tags);          // from the end of the opening tag
  Result<Block> ParseBlockThrough(const std::string& end);  // and past the name of the end tag
  StmtResult ParseStatement();
  StmtResult ParseKnownStatement(const std::string& tag, bool* known);
  StmtResult ParseIf();
  StmtResult ParseFor();
  StmtResult ParseSet();
  StmtResult ParseMacro();
  StmtResult ParseCallBlock();
  StmtResult ParseFilterBlock();
  StmtResult ParseWith();
  StmtResult ParseNamedBlock();
  StmtResult ParseGeneration();
  StmtResult ParseLoopControl();
  Status ParseSignature(Signature& signature);
  Result<Block> ParseFunctionBody(const std::string& end, Signature& signature);
  Result<const Expr*> ParseTarget(bool with_namespace, bool ends_at_in);

  // Expressions, from the loosest to the tightest.
  enum class TupleEnd { kTag, kIn, kRecursive, kParenthesis };
  ExprResult ParseTuple(TupleEnd end, bool with_condition, bool simple = false, bool with_namespace = false);
  ExprResult ParseExpression(bool with_condition = true);
  ExprResult ParseCondition();
  ExprResult ParseOr();
  ExprResult ParseAnd();
  ExprResult ParseNot();
  ExprResult ParseCompare();
  ExprResult ParseSum();
  ExprResult ParseConcat();
  ExprResult ParseProduct();
  ExprResult ParsePower();
  ExprResult ParseUnary(bool with_filter = true);
  ExprResult ParsePrimary(bool with_namespace = false);
  ExprResult ParseNamePrimary(bool with_namespace);
  ExprResult ParseListLiteral();
  ExprResult ParseDictLiteral();
  ExprResult ParseCall(const Expr* callee);
  ExprResult ParsePostfix(const Expr* node);
  ExprResult ParseFilterAndTests(const Expr* node);
  ExprResult ParseSubscript(const Expr* node);
  ExprResult ParseSubscribed();
  ExprResult ParseFilters(const Expr* node, bool start_inline);
  ExprResult ParseTest(const Expr* node);
  Status ParseCallArgs(CallArgs& args);
  Result<std::string> ParseDottedName();
  ExprResult Binary(BinaryOp op, const Expr* left, const Expr* right);
  bool AtCompareOp(CompareOp* op, size_t* tokens) const;

  // Counts nesting while it lives.
  class Depth {
   public:
    explicit Depth(Parser& parser) : parser_(parser) { ++parser_.depth_; }
    ~Depth() { --parser_.depth_; }
    bool TooDeep() const { return parser_.depth_ > kMaxParseDepth; }

   private:
    Parser& parser_;
  };
  Error FailDepth() const { return Fail(fmt::format("nested more than {} levels deep", kMaxParseDepth)); }

  std::vector<Token> tokens_;
  size_t position_ = 0;
  std::shared_ptr<Tree> tree_;
  int depth_ = 0;
  int loops_ = 0;  // enclosing loops of the current macro or template
  // Filters and tests that do not exist. Inside an `if` they are errors only when reached (a template may ask first
  // whether they exist); but not those inside a loop or macro inside it.
  struct Unknown {
    Error error;
    bool firm;
  };
  std::vector<Unknown> unknown_;
  std::vector<Names> end_tags_;         // what each open body waits for
  std::vector<std::string> open_tags_;  // for messages
  std::vector<Signature*> signatures_;  // of the enclosing macros
};

}  // namespace minimo::jinja
