// Runs a tree. Names are looked up in the scopes from the innermost outwards, then in the context, then among the
// globals. `if` opens no scope; loops, macros, with, and blocks do.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"

namespace minimo::jinja {

struct Scope {
  explicit Scope(std::shared_ptr<Scope> parent_in) : parent(std::move(parent_in)) {}
  void Set(std::string_view name, Value value);
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string_view, Value>> names;  // views into the tree, or literals
};
using ScopePtr = std::shared_ptr<Scope>;

class Evaluator {
 public:
  Evaluator(const Tree& tree, const Dict& context, Runtime& runtime)
      : tree_(tree), context_(context), runtime_(runtime) {}
  ~Evaluator();

  Result<std::string> Run();

  // For macros and recursive loops: what the body writes is the result.
  Result<std::string> CallMacro(const Signature& signature, const Block& body, const ScopePtr& definition,
                                const std::string& name, Args args);
  Result<std::string> CallLoop(const Stmt& statement, const ScopePtr& outer, const Value& iterable, int depth);

  Result<Value> Eval(const Expr& expr, const ScopePtr& scope);
  Status Assign(const Expr& target, Value value, const ScopePtr& scope);
  Runtime& runtime() { return runtime_; }

 private:
  enum class Flow { kNormal, kBreak, kContinue };

  Status Write(const std::string& text);
  Result<std::string> Capture(const Block& body, const ScopePtr& scope);

  Result<Flow> ExecBlock(const Block& block, const ScopePtr& scope);
  Result<Flow> Exec(const Stmt& statement, const ScopePtr& scope);
  Result<Flow> ExecIf(const Stmt& statement, const ScopePtr& scope);
  Status ExecFor(const Stmt& statement, const ScopePtr& outer, const Value& iterable, int depth);
  Status ExecSetBlock(const Stmt& statement, const ScopePtr& scope);
  Status ExecCallBlock(const Stmt& statement, const ScopePtr& scope);
  Result<Flow> ExecWith(const Stmt& statement, const ScopePtr& scope);
  Value MakeMacro(const Signature& signature, const Block& body, const ScopePtr& scope, std::string name);

  Value Lookup(const std::string& name, const ScopePtr& scope);
  Result<Value> EvalItems(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalDict(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalGetItem(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalCall(const Expr& expr, const ScopePtr& scope, const Value* caller);
  Result<Value> EvalFilter(const Expr& expr, const ScopePtr& scope, const Value* body);
  Result<Value> EvalTest(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalCondition(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalCompare(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalConcat(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalInner(const Expr& expr, const ScopePtr& scope);
  Result<Args> EvalArgs(const CallArgs& given, const ScopePtr& scope);

  const Tree& tree_;
  const Dict& context_;
  Runtime& runtime_;
  std::string* out_ = nullptr;
  std::vector<ScopePtr> captured_;  // scopes that macros hold on to; emptied at the end, as they form cycles
};

}  // namespace minimo::jinja
