#include "text/jinja/eval.h"

#include <algorithm>

#include "base/error.h"
#include "text/jinja/format.h"
#include "text/jinja/loop.h"
#include "text/jinja/ops.h"
#include "text/jinja/parser.h"
#include "text/jinja/template.h"

namespace minimo::jinja {

void Scope::Set(std::string_view name, Value value) {
  for (auto& [known, old] : names) {
    if (known != name) continue;
    old = std::move(value);
    return;
  }
  names.emplace_back(name, std::move(value));
}

namespace {

struct Macro final : Object {
  const char* TypeName() const override { return "jinja2.runtime.Macro object"; }
  std::string Repr() const override { return fmt::format("<Macro {}>", name.empty() ? "anonymous" : StringRepr(name)); }
  bool Callable() const override { return true; }
  Result<Value> Call(Runtime&, Args args) override {
    MINIMO_ASSIGN(std::string text, evaluator->CallMacro(*signature, *body, scope, name, std::move(args)));
    return Value::String(std::move(text));
  }
  Result<std::optional<Value>> GetAttr(Runtime&, std::string_view attribute) override {
    if (attribute == "name") return std::optional<Value>(Value::String(name));
    if (attribute == "caller") return std::optional<Value>(Value::Bool(signature->uses_caller));
    if (attribute == "catch_kwargs") return std::optional<Value>(Value::Bool(signature->uses_kwargs));
    if (attribute == "catch_varargs") return std::optional<Value>(Value::Bool(signature->uses_varargs));
    if (attribute != "arguments") return std::optional<Value>();
    Values names;
    for (const std::string& parameter : signature->names) names.push_back(Value::String(parameter));
    MINIMO_ASSIGN(Value tuple, MakeList(std::move(names), List::Kind::kTuple));
    return std::optional<Value>(std::move(tuple));
  }
  Evaluator* evaluator = nullptr;
  const Signature* signature = nullptr;
  const Block* body = nullptr;
  ScopePtr scope;  // where it was defined
  std::string name;
};

}  // namespace

Evaluator::~Evaluator() {
  for (const ScopePtr& scope : captured_) scope->names.clear();
}

Result<std::string> Evaluator::Run() { return Capture(tree_.body, std::make_shared<Scope>(nullptr)); }

Status Evaluator::Write(const std::string& text) {
  MINIMO_TRY(runtime_.ChargeText(text.size()));
  if (out_->size() + text.size() > Runtime::kMaxTextBytes) return runtime_.ChargeText(Runtime::kMaxTextBytes + 1);
  *out_ += text;
  return {};
}

Result<std::string> Evaluator::Capture(const Block& body, const ScopePtr& scope) {
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  const Result<Flow> flow = ExecBlock(body, scope);
  out_ = outer;
  if (!flow.ok()) return flow.error();
  return text;
}

Result<Evaluator::Flow> Evaluator::ExecBlock(const Block& block, const ScopePtr& scope) {
  for (const Stmt* statement : block) {
    MINIMO_ASSIGN(const Flow flow, Exec(*statement, scope));
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Result<Evaluator::Flow> Evaluator::Exec(const Stmt& statement, const ScopePtr& scope) {
  Runtime::Nest nest(runtime_);
  if (nest.TooDeep()) return Runtime::TooDeepError();
  MINIMO_TRY(runtime_.Charge());
  switch (statement.kind) {
    case Stmt::Kind::kText: MINIMO_TRY(Write(statement.text)); break;
    case Stmt::Kind::kPrint: {
      MINIMO_ASSIGN(const Value value, Eval(*statement.a, scope));
      if (value.IsString()) {
        MINIMO_TRY(Write(value.AsString()));
      } else {
        MINIMO_TRY(runtime_.Charge(value.GetExtent().weight));
        MINIMO_TRY(Write(Str(value)));
      }
      break;
    }
    case Stmt::Kind::kIf: return ExecIf(statement, scope);
    case Stmt::Kind::kFor: {
      MINIMO_ASSIGN(const Value iterable, Eval(*statement.a, scope));
      MINIMO_TRY(ExecFor(statement, scope, iterable, 0));
      break;
    }
    case Stmt::Kind::kSet: {
      MINIMO_ASSIGN(Value value, Eval(*statement.a, scope));
      MINIMO_TRY(Assign(*statement.target, std::move(value), scope));
      break;
    }
    case Stmt::Kind::kSetBlock: MINIMO_TRY(ExecSetBlock(statement, scope)); break;
    case Stmt::Kind::kMacro:
      scope->Set(statement.text, MakeMacro(statement.signature, statement.body, scope, statement.text));
      break;
    case Stmt::Kind::kCallBlock: MINIMO_TRY(ExecCallBlock(statement, scope)); break;
    case Stmt::Kind::kFilterBlock: {
      MINIMO_ASSIGN(std::string text, Capture(statement.body, std::make_shared<Scope>(scope)));
      const Value body = Value::String(std::move(text));
      MINIMO_ASSIGN(const Value filtered, EvalFilter(*statement.a, scope, &body));
      MINIMO_TRY(Write(Str(filtered)));
      break;
    }
    case Stmt::Kind::kWith: return ExecWith(statement, scope);
    case Stmt::Kind::kScope: return ExecBlock(statement.body, std::make_shared<Scope>(scope));
    case Stmt::Kind::kBreak: return Flow::kBreak;
    case Stmt::Kind::kContinue: return Flow::kContinue;
    case Stmt::Kind::kFail: return Error{statement.text};
  }
  return Flow::kNormal;
}

Result<Evaluator::Flow> Evaluator::ExecIf(const Stmt& statement, const ScopePtr& scope) {
  for (const auto& [test, body] : statement.branches) {
    if (test != nullptr) {
      MINIMO_ASSIGN(const Value holds, Eval(*test, scope));
      if (!holds.Truthy()) continue;
    }
    return ExecBlock(body, scope);
  }
  return Flow::kNormal;
}

Status Evaluator::ExecFor(const Stmt& statement, const ScopePtr& outer, const Value& iterable, int depth) {
  MINIMO_ASSIGN(Values items, Iterate(runtime_, iterable));
  const auto loop = std::make_shared<Loop>(*this, statement, outer, std::move(items), depth);
  const struct ReleaseAtEnd {
    ~ReleaseAtEnd() { loop.Release(); }
    Loop& loop;
  } release_at_end{*loop};
  const Value loop_value = Value::Of(std::shared_ptr<Object>(loop));
  ScopePtr scope;
  bool completed = false;  // an iteration that `break` or `continue` ends does not keep the else block from running
  while (true) {
    MINIMO_TRY(runtime_.Charge());
    MINIMO_ASSIGN(const bool more, loop->Advance());
    if (!more) break;
    // The scope is made anew where a macro keeps the old one.
    if (scope == nullptr || scope.use_count() > 1) {
      scope = std::make_shared<Scope>(outer);
    } else {
      scope->names.clear();
    }
    scope->names.emplace_back("loop", loop_value);
    MINIMO_TRY(Assign(*statement.target, loop->current(), scope));
    MINIMO_ASSIGN(const Flow flow, ExecBlock(statement.body, scope));
    if (flow == Flow::kBreak) break;
    completed |= flow == Flow::kNormal;
  }
  if (completed) return {};
  MINIMO_TRY(ExecBlock(statement.else_body, std::make_shared<Scope>(outer)));
  return {};
}

Result<std::string> Evaluator::CallLoop(const Stmt& statement, const ScopePtr& outer, const Value& iterable,
                                        int depth) {
  Runtime::Nest nest(runtime_);
  if (nest.TooDeep()) return Runtime::TooDeepError();
  std::string text;
  std::string* const before = std::exchange(out_, &text);
  const Status status = ExecFor(statement, outer, iterable, depth);
  out_ = before;
  MINIMO_TRY(status);
  return text;
}

Status Evaluator::ExecSetBlock(const Stmt& statement, const ScopePtr& scope) {
  MINIMO_ASSIGN(std::string text, Capture(statement.body, std::make_shared<Scope>(scope)));
  Value value = Value::String(std::move(text));
  if (statement.a != nullptr) {
    MINIMO_ASSIGN(value, EvalFilter(*statement.a, scope, &value));
  }
  return Assign(*statement.target, std::move(value), scope);
}

Value Evaluator::MakeMacro(const Signature& signature, const Block& body, const ScopePtr& scope, std::string name) {
  auto macro = std::make_shared<Macro>();
  macro->evaluator = this;
  macro->signature = &signature;
  macro->body = &body;
  macro->scope = scope;
  macro->name = std::move(name);
  if (captured_.empty() || captured_.back() != scope) captured_.push_back(scope);
  return Value::Of(std::shared_ptr<Object>(std::move(macro)));
}

Status Evaluator::ExecCallBlock(const Stmt& statement, const ScopePtr& scope) {
  const Value caller = MakeMacro(statement.signature, statement.body, std::make_shared<Scope>(scope), "caller");
  MINIMO_ASSIGN(const Value value, EvalCall(*statement.a, scope, &caller));
  MINIMO_TRY(runtime_.Charge(value.GetExtent().weight));
  return Write(Str(value));
}

Result<Evaluator::Flow> Evaluator::ExecWith(const Stmt& statement, const ScopePtr& scope) {
  const ScopePtr inner = std::make_shared<Scope>(scope);
  for (size_t i = 0; i < statement.targets.size(); ++i) {
    MINIMO_ASSIGN(Value value, Eval(*statement.values[i], scope));
    MINIMO_TRY(Assign(*statement.targets[i], std::move(value), inner));
  }
  return ExecBlock(statement.body, inner);
}

Status Evaluator::Assign(const Expr& target, Value value, const ScopePtr& scope) {
  if (target.kind == Expr::Kind::kName) {
    scope->Set(target.text, std::move(value));
    return {};
  }
  if (target.kind == Expr::Kind::kNamespaceRef) {
    const Value holder = Lookup(target.text, scope);
    auto* ns = holder.IsObject() ? dynamic_cast<Namespace*>(&holder.AsObject()) : nullptr;
    if (ns == nullptr) return Errorf("cannot assign attribute on non-namespace object");
    ns->attributes.Set(Value::String(target.attribute), std::move(value));
    return {};
  }
  if (!IsIterable(value)) return Errorf("cannot unpack non-iterable {} object", TypeName(value));
  MINIMO_ASSIGN(Values items, Iterate(runtime_, value));
  const size_t wanted = target.items.size();
  if (items.size() < wanted) return Errorf("not enough values to unpack (expected {}, got {})", wanted, items.size());
  if (items.size() > wanted) return Errorf("too many values to unpack (expected {})", wanted);
  for (size_t i = 0; i < wanted; ++i) MINIMO_TRY(Assign(*target.items[i], std::move(items[i]), scope));
  return {};
}

Result<std::string> Evaluator::CallMacro(const Signature& signature, const Block& body, const ScopePtr& definition,
                                         const std::string& name, Args args) {
  Runtime::Nest nest(runtime_);
  if (nest.TooDeep()) return Runtime::TooDeepError();
  const ScopePtr scope = std::make_shared<Scope>(definition);
  const auto take = [&args](std::string_view key) -> std::optional<Value> {
    for (auto it = args.keyword.begin(); it != args.keyword.end(); ++it) {
      if (it->first != key) continue;
      Value value = std::move(it->second);
      args.keyword.erase(it);
      return value;
    }
    return std::nullopt;
  };
  const size_t parameters = signature.names.size();
  const size_t first_default = parameters - signature.defaults.size();
  std::vector<size_t> missing;
  for (size_t i = 0; i < parameters; ++i) {
    std::optional<Value> value = i < args.positional.size() ? std::move(args.positional[i]) : take(signature.names[i]);
    if (value) {
      scope->Set(signature.names[i], *std::move(value));
    } else if (i < first_default) {
      scope->Set(signature.names[i],
                 Value::Undefined(fmt::format("parameter {} was not provided", StringRepr(signature.names[i]))));
    } else {
      missing.push_back(i);
    }
  }
  std::optional<Value> caller = signature.uses_caller ? take("caller") : std::nullopt;
  if (signature.uses_caller &&
      std::find(signature.names.begin(), signature.names.end(), "caller") == signature.names.end()) {
    scope->Set("caller", caller ? *std::move(caller) : Value::Undefined("No caller defined"));
  }
  if (signature.uses_kwargs) {
    Dict dict;
    for (auto& [key, value] : args.keyword) dict.Set(Value::String(key), std::move(value));
    MINIMO_ASSIGN(Value kwargs, MakeDict(std::move(dict)));
    scope->Set("kwargs", std::move(kwargs));
  } else if (!args.keyword.empty()) {
    if (args.keyword[0].first == "caller") {
      return Errorf("macro {} was invoked with two values for the special caller argument. This is most likely a bug.",
                    StringRepr(name));
    }
    return Errorf("macro {} takes no keyword argument {}", StringRepr(name), StringRepr(args.keyword[0].first));
  }
  const size_t taken = std::min(args.positional.size(), parameters);
  if (signature.uses_varargs) {
    Values rest(args.positional.begin() + static_cast<std::ptrdiff_t>(taken), args.positional.end());
    MINIMO_ASSIGN(Value varargs, MakeList(std::move(rest), List::Kind::kTuple));
    scope->Set("varargs", std::move(varargs));
  } else if (args.positional.size() > parameters) {
    return Errorf("macro {} takes not more than {} argument(s)", StringRepr(name), parameters);
  }
  for (const size_t i : missing) {
    MINIMO_ASSIGN(Value value, Eval(*signature.defaults[i - first_default], scope));
    scope->Set(signature.names[i], std::move(value));
  }
  return Capture(body, scope);
}

Result<JinjaTemplate> JinjaTemplate::Parse(std::string_view source) {
  MINIMO_ASSIGN(std::shared_ptr<const Tree> tree, ParseTemplate(source));
  return JinjaTemplate(std::move(tree));
}

Result<std::string> JinjaTemplate::Render(const Value& context) const {
  return Render(context, std::chrono::system_clock::now());
}

Result<std::string> JinjaTemplate::Render(const Value& context, std::chrono::system_clock::time_point now) const {
  if (!context.IsDict()) return Errorf("the variables of a template must be a dict");
  // A long conversation may cost more than a short one.
  Runtime runtime(Runtime::kDefaultBudget + 64 * context.GetExtent().weight, now);
  return Evaluator(*tree_, context.AsDict(), runtime).Run();
}

}  // namespace minimo::jinja
