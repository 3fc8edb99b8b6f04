#include "text/jinja/loop.h"

#include "base/error.h"
#include "text/jinja/ops.h"

namespace minimo::jinja {
namespace {

// loop.cycle and loop.changed, bound. Holds the loop's object alive.
struct LoopMethod final : Object {
  const char* TypeName() const override { return "method object"; }
  std::string Repr() const override { return "<bound method>"; }
  bool Callable() const override { return true; }
  Result<Value> Call(Runtime& runtime, Args args) override {
    auto& self = static_cast<Loop&>(loop.AsObject());
    if (!cycles) {
      MINIMO_ASSIGN(Value values, MakeList(std::move(args.positional), List::Kind::kTuple));
      MINIMO_TRY(runtime.Charge(values.GetExtent().weight));
      return Value::Bool(self.Changed(std::move(values)));
    }
    if (args.positional.empty()) return Errorf("no items for cycling given");
    return args.positional[static_cast<size_t>(self.index0()) % args.positional.size()];
  }
  Value loop;
  bool cycles = false;
};

}  // namespace

Loop::Loop(Evaluator& evaluator, const Stmt& statement, ScopePtr outer, Values source, int depth0)
    : evaluator_(evaluator),
      statement_(statement),
      outer_(std::move(outer)),
      source_(std::move(source)),
      depth0_(depth0) {}

std::string Loop::Repr() const { return fmt::format("<LoopContext {}/{}>", index0_ + 1, source_.size()); }

Status Loop::Peek() {
  while (!after_ && next_ < source_.size()) {
    const Value& item = source_[next_++];
    if (statement_.b != nullptr && !tested_) {
      const ScopePtr scope = std::make_shared<Scope>(outer_);
      MINIMO_TRY(evaluator_.Assign(*statement_.target, item, scope));
      MINIMO_ASSIGN(const Value holds, evaluator_.Eval(*statement_.b, scope));
      if (!holds.Truthy()) continue;
    }
    after_ = item;
  }
  return {};
}

Result<bool> Loop::Advance() {
  MINIMO_TRY(Peek());
  if (!after_) return false;
  before_ = std::exchange(current_, std::exchange(after_, std::nullopt));
  ++index0_;
  return true;
}

Result<int64_t> Loop::CountAll() {
  if (statement_.b != nullptr && !tested_) {
    // What is left is tested now; the survivors are the new source.
    Values rest;
    MINIMO_TRY(Peek());
    while (after_) {
      rest.push_back(*std::exchange(after_, std::nullopt));
      MINIMO_TRY(Peek());
    }
    source_ = std::move(rest);
    next_ = 0;
    tested_ = true;
  }
  return index0_ + 1 + (after_ ? 1 : 0) + static_cast<int64_t>(source_.size() - next_);
}

void Loop::Release() {
  outer_.reset();
  source_.clear();
  next_ = 0;
  before_ = current_ = after_ = changed_ = std::nullopt;
}

bool Loop::Changed(Value values) {
  if (changed_ && Equal(*changed_, values)) return false;
  changed_ = std::move(values);
  return true;
}

Result<std::optional<Value>> Loop::GetAttr(Runtime&, std::string_view name) {
  using Found = std::optional<Value>;
  if (name == "index") return Found(Value::Int(index0_ + 1));
  if (name == "index0") return Found(Value::Int(index0_));
  if (name == "first") return Found(Value::Bool(index0_ == 0));
  if (name == "depth") return Found(Value::Int(depth0_ + 1));
  if (name == "depth0") return Found(Value::Int(depth0_));
  if (name == "last" || name == "nextitem") {
    MINIMO_TRY(Peek());
    if (name == "last") return Found(Value::Bool(!after_));
    return Found(after_ ? *after_ : Value::Undefined("there is no next item"));
  }
  if (name == "previtem") return Found(before_ ? *before_ : Value::Undefined("there is no previous item"));
  if (name == "length" || name == "revindex" || name == "revindex0") {
    MINIMO_ASSIGN(const int64_t length, CountAll());
    return Found(Value::Int(name == "length" ? length : length - index0_ - (name == "revindex0")));
  }
  if (name == "cycle" || name == "changed") {
    auto method = std::make_shared<LoopMethod>();
    method->loop = Value::Of(shared_from_this());
    method->cycles = name == "cycle";
    return Found(Value::Of(std::shared_ptr<Object>(std::move(method))));
  }
  return Found();
}

Result<Value> Loop::Call(Runtime&, Args args) {
  if (args.positional.size() != 1 || !args.keyword.empty()) return Errorf("loop() takes exactly one argument");
  if (!statement_.recursive || outer_ == nullptr) {
    return Errorf("The loop must have the 'recursive' marker to be called recursively.");
  }
  MINIMO_ASSIGN(std::string text, evaluator_.CallLoop(statement_, outer_, args.positional[0], depth0_ + 1));
  return Value::String(std::move(text));
}

}  // namespace minimo::jinja
