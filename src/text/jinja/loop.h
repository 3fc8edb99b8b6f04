// The `loop` variable, and the iteration behind it: items are tested and drawn one by one, so that a template sees
// the effects of the body in the loop's condition, as in Python.
#pragma once

#include <optional>

#include "text/jinja/eval.h"

namespace minimo::jinja {

struct Loop final : Object {
  Loop(Evaluator& evaluator, const Stmt& statement, ScopePtr outer, Values source, int depth0);

  const char* TypeName() const override { return "jinja2.runtime.LoopContext object"; }
  std::string Repr() const override;
  bool Callable() const override { return true; }
  bool Iterable() const override { return true; }
  Result<std::optional<Value>> GetAttr(Runtime& runtime, std::string_view name) override;
  Result<Value> Call(Runtime& runtime, Args args) override;

  // Moves to the next item; false at the end.
  Result<bool> Advance();
  const Value& current() const { return *current_; }

  // At the end of the loop: lets go of all values, so that no chain or cycle of them outlives it.
  void Release();

  // loop.changed(values): whether they differ from the last call's.
  bool Changed(Value values);
  int64_t index0() const { return index0_; }

 private:
  Status Peek();               // fills after_ unless at the end
  Result<int64_t> CountAll();  // length; draws everything

  Evaluator& evaluator_;
  const Stmt& statement_;
  ScopePtr outer_;
  Values source_;
  size_t next_ = 0;
  bool tested_ = false;  // all of source_ passed the loop's condition
  int64_t index0_ = -1;
  int depth0_;
  std::optional<Value> before_, current_, after_, changed_;
};

}  // namespace minimo::jinja
