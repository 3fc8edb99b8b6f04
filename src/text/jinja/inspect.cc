// What a template does with its input, as far as its text tells.
#include <algorithm>

#include "text/jinja/ast.h"
#include "text/jinja/template.h"

namespace minimo::jinja {
namespace {

bool IsText(const Expr* expr, std::string_view text) {
  return expr != nullptr && expr->kind == Expr::Kind::kConst && expr->constant.IsString() &&
         expr->constant.AsString() == text;
}

}  // namespace

bool JinjaTemplate::LoopsOver(std::string_view name) const {
  return std::any_of(tree_->stmts.begin(), tree_->stmts.end(), [name](const auto& statement) {
    const Expr* over = statement->a;
    if (statement->kind != Stmt::Kind::kFor || over == nullptr) return false;
    switch (over->kind) {
      case Expr::Kind::kName: return over->text.find(name) != std::string::npos;
      case Expr::Kind::kGetAttr: return over->text == name;
      case Expr::Kind::kGetItem: return IsText(over->b, name);
      default: return false;
    }
  });
}

bool JinjaTemplate::SplitsOn(std::string_view separator) const {
  return std::any_of(tree_->exprs.begin(), tree_->exprs.end(), [separator](const auto& call) {
    return call->kind == Expr::Kind::kCall && call->a->kind == Expr::Kind::kGetAttr && call->a->text == "split" &&
           !call->args.positional.empty() && IsText(call->args.positional[0], separator);
  });
}

bool JinjaTemplate::Mentions(std::string_view text) const {
  const auto in_text = [text](const auto& s) { return s->text.find(text) != std::string::npos; };
  const auto in_const = [text](const auto& e) {
    return e->constant.IsString() && e->constant.AsString().find(text) != std::string::npos;
  };
  return std::any_of(tree_->stmts.begin(), tree_->stmts.end(), in_text) ||
         std::any_of(tree_->exprs.begin(), tree_->exprs.end(), in_const);
}

}  // namespace minimo::jinja
