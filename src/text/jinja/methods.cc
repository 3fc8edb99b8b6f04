// Methods of lists, dicts and numbers, and the binding of a method to its value.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/format.h"
#include "text/jinja/ops.h"

namespace minimo::jinja {
namespace {

struct BoundMethod final : Object {
  const char* TypeName() const override { return "builtin_function_or_method object"; }
  std::string Repr() const override {
    return fmt::format("<built-in method {} of {} object>", name, jinja::TypeName(self));
  }
  bool Callable() const override { return true; }
  Result<Value> Call(Runtime& runtime, Args args) override { return function(runtime, self, args); }
  std::string name;
  Value self;
  Function function;
};

Result<Value> SequenceIndex(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("index", args);
  const Value item = reader.Required("value");
  MINIMO_TRY(reader.Done());
  const Values& items = subject.AsList().items;
  MINIMO_TRY(runtime.ChargeItems(items.size()));
  const auto found = std::find_if(items.begin(), items.end(), [&item](const Value& v) { return Equal(v, item); });
  if (found != items.end()) return Value::Int(found - items.begin());
  if (subject.AsList().kind == List::Kind::kTuple) return Errorf("tuple.index(x): x not in tuple");
  return Errorf("{} is not in {}", Repr(item), TypeName(subject));
}

Result<Value> SequenceCount(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("count", args);
  const Value item = reader.Required("value");
  MINIMO_TRY(reader.Done());
  const Values& items = subject.AsList().items;
  MINIMO_TRY(runtime.ChargeItems(items.size()));
  return Value::Int(std::count_if(items.begin(), items.end(), [&item](const Value& v) { return Equal(v, item); }));
}

Result<Value> Copy(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("copy", args).Done());
  return subject;
}

Result<Value> DictGet(Runtime&, const Value& subject, Args& args) {
  ArgReader reader("get", args);
  const Value key = reader.Required("key");
  const Value otherwise = reader.Optional("default", Value());
  MINIMO_TRY(reader.Done());
  if (!Hashable(key)) return Errorf("unhashable type: '{}'", TypeName(key));
  const Value* found = subject.AsDict().Find(key);
  return found == nullptr ? otherwise : *found;
}

template <List::Kind kKind>
Result<Value> DictView(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("view", args).Done());
  const Dict& dict = subject.AsDict();
  MINIMO_TRY(runtime.ChargeItems(dict.items.size()));
  Values items;
  for (const auto& [key, value] : dict.items) {
    if (kKind == List::Kind::kItems) {
      MINIMO_ASSIGN(Value pair, MakeList({key, value}, List::Kind::kTuple));
      items.push_back(std::move(pair));
    } else {
      items.push_back(kKind == List::Kind::kKeys ? key : value);
    }
  }
  return MakeList(std::move(items), kKind);
}

Result<Value> FloatIsInteger(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("is_integer", args).Done());
  return Value::Bool(std::isfinite(subject.AsDouble()) && subject.AsDouble() == std::floor(subject.AsDouble()));
}

bool IsOneOf(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Function FindListMethod(std::string_view name, List::Kind kind) {
  if (name == "index") return SequenceIndex;
  if (name == "count") return SequenceCount;
  if (name == "copy" && kind == List::Kind::kList) return Copy;
  return nullptr;
}

Function FindDictMethod(std::string_view name) {
  if (name == "get") return DictGet;
  if (name == "items") return DictView<List::Kind::kItems>;
  if (name == "keys") return DictView<List::Kind::kKeys>;
  if (name == "values") return DictView<List::Kind::kValues>;
  if (name == "copy") return Copy;
  return nullptr;
}

Value Unsafe(const Value& value, std::string_view name) {
  return Value::Undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, TypeName(value)));
}

}  // namespace

std::optional<Value> FindMethod(const Value& value, std::string_view name) {
  Function function = nullptr;
  if (value.IsString()) {
    function = FindStringMethod(name);
  } else if (value.IsDict()) {
    if (IsOneOf(name, {"clear", "pop", "popitem", "setdefault", "update"})) return Unsafe(value, name);
    function = FindDictMethod(name);
  } else if (value.IsList() && value.AsList().Indexable()) {
    const List& list = value.AsList();
    if (list.kind == List::Kind::kList &&
        IsOneOf(name, {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"})) {
      return Unsafe(value, name);
    }
    if (list.group && name == "grouper") return list.items[0];
    if (list.group && name == "list") return list.items[1];
    function = FindListMethod(name, list.kind);
  } else if (value.IsFloat() && name == "is_integer") {
    function = FloatIsInteger;
  }
  if (function == nullptr) return std::nullopt;
  auto method = std::make_shared<BoundMethod>();
  method->extent.nesting = value.GetExtent().nesting + 1;
  method->name = name;
  method->self = value;
  method->function = function;
  if (method->extent.nesting > kMaxNesting) return std::nullopt;
  return Value::Of(std::shared_ptr<Object>(std::move(method)));
}

}  // namespace minimo::jinja
