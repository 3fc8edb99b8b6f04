#include <algorithm>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/eval.h"
#include "text/jinja/format.h"
#include "text/jinja/ops.h"

namespace minimo::jinja {

Value Evaluator::Lookup(const std::string& name, const ScopePtr& scope) {
  for (const Scope* s = scope.get(); s != nullptr; s = s->parent.get()) {
    for (const auto& [known, value] : s->names) {
      if (known == name) return value;
    }
  }
  if (const Value* value = context_.Find(name)) return *value;
  if (std::optional<Value> global = FindGlobal(name)) return *std::move(global);
  return Value::Undefined(fmt::format("{} is undefined", StringRepr(name)));
}

Result<Value> Evaluator::Eval(const Expr& expr, const ScopePtr& scope) {
  Runtime::Nest nest(runtime_);
  if (nest.TooDeep()) return Runtime::TooDeepError();
  MINIMO_TRY(runtime_.Charge());
  switch (expr.kind) {
    case Expr::Kind::kConst: return expr.constant;
    case Expr::Kind::kName: return Lookup(expr.text, scope);
    case Expr::Kind::kGetAttr: {
      MINIMO_ASSIGN(const Value object, Eval(*expr.a, scope));
      return GetAttr(runtime_, object, expr.text);
    }
    case Expr::Kind::kNot: {
      MINIMO_ASSIGN(const Value value, Eval(*expr.a, scope));
      return Value::Bool(!value.Truthy());
    }
    case Expr::Kind::kAnd:
    case Expr::Kind::kOr: {
      MINIMO_ASSIGN(Value left, Eval(*expr.a, scope));
      if (left.Truthy() == (expr.kind == Expr::Kind::kOr)) return left;
      return Eval(*expr.b, scope);
    }
    case Expr::Kind::kBinary: {
      MINIMO_ASSIGN(const Value left, Eval(*expr.a, scope));
      MINIMO_ASSIGN(const Value right, Eval(*expr.b, scope));
      return BinaryOperation(runtime_, expr.binary_op, left, right);
    }
    default: return EvalInner(expr, scope);
  }
}

// The kinds that need more room on the stack, or are rarer.
Result<Value> Evaluator::EvalInner(const Expr& expr, const ScopePtr& scope) {
  switch (expr.kind) {
    case Expr::Kind::kList:
    case Expr::Kind::kTuple: return EvalItems(expr, scope);
    case Expr::Kind::kDict: return EvalDict(expr, scope);
    case Expr::Kind::kGetItem: return EvalGetItem(expr, scope);
    case Expr::Kind::kCall: return EvalCall(expr, scope, nullptr);
    case Expr::Kind::kFilter: return EvalFilter(expr, scope, nullptr);
    case Expr::Kind::kTest: return EvalTest(expr, scope);
    case Expr::Kind::kNeg:
    case Expr::Kind::kPos: {
      MINIMO_ASSIGN(const Value value, Eval(*expr.a, scope));
      return Negate(value, expr.kind == Expr::Kind::kNeg);
    }
    case Expr::Kind::kCondition: return EvalCondition(expr, scope);
    case Expr::Kind::kCompare: return EvalCompare(expr, scope);
    case Expr::Kind::kConcat: return EvalConcat(expr, scope);
    default: return Errorf("a slice stands where a value is expected");
  }
}

Result<Value> Evaluator::EvalItems(const Expr& expr, const ScopePtr& scope) {
  Values items;
  for (const Expr* item : expr.items) {
    MINIMO_ASSIGN(Value value, Eval(*item, scope));
    items.push_back(std::move(value));
  }
  return MakeList(std::move(items), expr.kind == Expr::Kind::kTuple ? List::Kind::kTuple : List::Kind::kList);
}

Result<Value> Evaluator::EvalDict(const Expr& expr, const ScopePtr& scope) {
  Dict dict;
  for (size_t i = 0; i + 1 < expr.items.size(); i += 2) {
    MINIMO_ASSIGN(Value key, Eval(*expr.items[i], scope));
    MINIMO_ASSIGN(Value value, Eval(*expr.items[i + 1], scope));
    if (!Hashable(key)) return Errorf("unhashable type: '{}'", TypeName(key));
    if (!key.IsString()) MINIMO_TRY(runtime_.ChargeItems(dict.items.size()));
    dict.Set(std::move(key), std::move(value));
  }
  return MakeDict(std::move(dict));
}

Result<Value> Evaluator::EvalGetItem(const Expr& expr, const ScopePtr& scope) {
  MINIMO_ASSIGN(const Value object, Eval(*expr.a, scope));
  if (expr.b->kind != Expr::Kind::kSlice) {
    MINIMO_ASSIGN(const Value key, Eval(*expr.b, scope));
    return GetItem(runtime_, object, key);
  }
  Value parts[3];
  const Expr* const sources[3] = {expr.b->a, expr.b->b, expr.b->c};
  for (int i = 0; i < 3; ++i) {
    if (sources[i] != nullptr) {
      MINIMO_ASSIGN(parts[i], Eval(*sources[i], scope));
    }
  }
  return GetSlice(runtime_, object, parts[0], parts[1], parts[2]);
}

Result<Args> Evaluator::EvalArgs(const CallArgs& given, const ScopePtr& scope) {
  Args args;
  for (const Expr* expr : given.positional) {
    MINIMO_ASSIGN(Value value, Eval(*expr, scope));
    args.positional.push_back(std::move(value));
  }
  for (const auto& [name, expr] : given.keyword) {
    MINIMO_ASSIGN(Value value, Eval(*expr, scope));
    args.keyword.emplace_back(name, std::move(value));
  }
  if (given.star != nullptr) {
    MINIMO_ASSIGN(const Value more, Eval(*given.star, scope));
    MINIMO_ASSIGN(Values items, Iterate(runtime_, more));
    for (Value& item : items) args.positional.push_back(std::move(item));
  }
  if (given.star_star != nullptr) {
    MINIMO_ASSIGN(const Value more, Eval(*given.star_star, scope));
    if (!more.IsDict()) return Errorf("argument after ** must be a mapping, not {}", TypeName(more));
    for (const auto& [key, value] : more.AsDict().items) {
      if (!key.IsString()) return Errorf("keywords must be strings");
      args.keyword.emplace_back(key.AsString(), value);
    }
  }
  return args;
}

Result<Value> Evaluator::EvalCall(const Expr& expr, const ScopePtr& scope, const Value* caller) {
  MINIMO_ASSIGN(const Value callee, Eval(*expr.a, scope));
  MINIMO_ASSIGN(Args args, EvalArgs(expr.args, scope));
  if (caller != nullptr) args.keyword.emplace_back("caller", *caller);
  return CallValue(runtime_, callee, std::move(args));
}

Result<Value> Evaluator::EvalFilter(const Expr& expr, const ScopePtr& scope, const Value* body) {
  Runtime::Nest nest(runtime_);
  if (nest.TooDeep()) return Runtime::TooDeepError();
  // The innermost filter of a block works on its body.
  Value subject;
  if (expr.a == nullptr) {
    subject = *body;
  } else if (body != nullptr && expr.a->kind == Expr::Kind::kFilter) {
    MINIMO_ASSIGN(subject, EvalFilter(*expr.a, scope, body));
  } else {
    MINIMO_ASSIGN(subject, Eval(*expr.a, scope));
  }
  MINIMO_ASSIGN(Args args, EvalArgs(expr.args, scope));
  const Function filter = FindFilter(expr.text);
  if (filter == nullptr) return Errorf("No filter named {} found.", StringRepr(expr.text));
  return filter(runtime_, subject, args);
}

Result<Value> Evaluator::EvalTest(const Expr& expr, const ScopePtr& scope) {
  MINIMO_ASSIGN(const Value subject, Eval(*expr.a, scope));
  MINIMO_ASSIGN(Args args, EvalArgs(expr.args, scope));
  const Test test = FindTest(expr.text);
  if (test == nullptr) return Errorf("No test named {} found.", StringRepr(expr.text));
  MINIMO_ASSIGN(const bool holds, test(runtime_, subject, args));
  return Value::Bool(holds);
}

Result<Value> Evaluator::EvalCondition(const Expr& expr, const ScopePtr& scope) {
  MINIMO_ASSIGN(const Value test, Eval(*expr.a, scope));
  if (test.Truthy()) return Eval(*expr.b, scope);
  if (expr.c != nullptr) return Eval(*expr.c, scope);
  return Value::Undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.", expr.line));
}

Result<Value> Evaluator::EvalCompare(const Expr& expr, const ScopePtr& scope) {
  MINIMO_ASSIGN(Value left, Eval(*expr.a, scope));
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    MINIMO_ASSIGN(Value right, Eval(*expr.items[i], scope));
    MINIMO_ASSIGN(const bool holds, CompareOperation(runtime_, expr.ops[i], left, right));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Result<Value> Evaluator::EvalConcat(const Expr& expr, const ScopePtr& scope) {
  std::string text;
  for (const Expr* item : expr.items) {
    MINIMO_ASSIGN(const Value value, Eval(*item, scope));
    MINIMO_TRY(runtime_.Charge(value.GetExtent().weight));
    text += Str(value);
    if (text.size() > Runtime::kMaxTextBytes) return runtime_.ChargeText(text.size()).error();
  }
  return Value::String(std::move(text));
}

}  // namespace minimo::jinja
