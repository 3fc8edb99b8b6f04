#include "text/jinja/builtins.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/error.h"
#include "text/jinja/format.h"
#include "text/jinja/ops.h"

namespace minimo::jinja {

std::optional<Value> ArgReader::Take(std::string_view name) {
  ++wanted_;
  if (position_ < args_.positional.size()) return args_.positional[position_++];
  for (auto it = args_.keyword.begin(); it != args_.keyword.end(); ++it) {
    if (it->first != name) continue;
    Value value = std::move(it->second);
    args_.keyword.erase(it);
    return value;
  }
  return std::nullopt;
}

Value ArgReader::Required(std::string_view name) {
  std::optional<Value> value = Take(name);
  if (value) return *std::move(value);
  if (missing_.empty()) missing_ = name;
  return Value();
}

Value ArgReader::Optional(std::string_view name, Value otherwise) {
  std::optional<Value> value = Take(name);
  return value ? *std::move(value) : std::move(otherwise);
}

Status ArgReader::Done() {
  if (position_ < args_.positional.size()) {
    return Errorf("{}() takes at most {} arguments ({} given)", function_, wanted_, args_.positional.size());
  }
  if (!args_.keyword.empty()) {
    return Errorf("{}() got an unexpected keyword argument '{}'", function_, args_.keyword[0].first);
  }
  if (!missing_.empty()) return Errorf("{}() missing 1 required positional argument: '{}'", function_, missing_);
  return {};
}

Result<int64_t> ToIndex(const Value& value) {
  if (value.IsUndefined()) return Error{value.UndefinedMessage()};
  if (!value.IsIntegral()) return Errorf("'{}' object cannot be interpreted as an integer", TypeName(value));
  return value.AsInt();
}

Result<std::string> ToText(const Value& value, std::string_view what) {
  if (!value.IsString()) return Errorf("{} must be str, not {}", what, TypeName(value));
  return value.AsString();
}

Function FindFilter(std::string_view name) {
  if (const Function filter = FindTextFilter(name)) return filter;
  if (const Function filter = FindSequenceFilter(name)) return filter;
  return FindValueFilter(name);
}

Result<Value> CallFilter(Runtime& runtime, const std::string& name, const Value& subject, Args args) {
  const Function filter = FindFilter(name);
  if (filter == nullptr) return Errorf("No filter named '{}'.", name);
  MINIMO_TRY(runtime.Charge());
  return filter(runtime, subject, args);
}

Result<bool> CallTest(Runtime& runtime, const std::string& name, const Value& subject, Args args) {
  const Test test = FindTest(name);
  if (test == nullptr) return Errorf("No test named '{}'.", name);
  MINIMO_TRY(runtime.Charge());
  return test(runtime, subject, args);
}

namespace {

// A global function.
struct Builtin final : Object {
  Builtin(const char* name_in, Function function_in) : name(name_in), function(function_in) {}
  const char* TypeName() const override { return "function object"; }
  std::string Repr() const override { return fmt::format("<function {}>", name); }
  bool Callable() const override { return true; }
  Result<Value> Call(Runtime& runtime, Args args) override { return function(runtime, Value(), args); }
  const char* name;
  Function function;
};

struct Cycler final : Object {
  const char* TypeName() const override { return "jinja2.utils.Cycler object"; }
  std::string Repr() const override { return "<Cycler>"; }
  Result<std::optional<Value>> GetAttr(Runtime& runtime, std::string_view name) override;
  Values items;
  size_t position = 0;
};

// cycler.next and cycler.reset, bound.
struct CyclerMethod final : Object {
  const char* TypeName() const override { return "method object"; }
  std::string Repr() const override { return "<bound method>"; }
  bool Callable() const override { return true; }
  Result<Value> Call(Runtime&, Args) override {
    auto& self = static_cast<Cycler&>(cycler.AsObject());
    if (resets) {
      self.position = 0;
      return Value();
    }
    const Value item = self.items[self.position];
    self.position = (self.position + 1) % self.items.size();
    return item;
  }
  Value cycler;
  bool resets = false;
};

struct Joiner final : Object {
  const char* TypeName() const override { return "jinja2.utils.Joiner object"; }
  std::string Repr() const override { return "<Joiner>"; }
  bool Callable() const override { return true; }
  Result<Value> Call(Runtime&, Args) override { return std::exchange(used, true) ? separator : Value::String(""); }
  Value separator;
  bool used = false;
};

Result<std::optional<Value>> Cycler::GetAttr(Runtime&, std::string_view name) {
  if (name == "current") return std::optional<Value>(items[position]);
  if (name != "next" && name != "reset") return std::optional<Value>();
  auto method = std::make_shared<CyclerMethod>();
  method->cycler = Value::Of(shared_from_this());
  method->resets = name == "reset";
  return std::optional<Value>(Value::Of(std::shared_ptr<Object>(std::move(method))));
}

Result<Value> MakeRange(Runtime& runtime, const Value&, Args& args) {
  const size_t count = args.positional.size();
  if (!args.keyword.empty()) return Errorf("range() takes no keyword arguments");
  if (count == 0 || count > 3) {
    return count == 0 ? Errorf("range expected at least 1 argument, got 0")
                      : Errorf("range expected at most 3 arguments, got {}", count);
  }
  int64_t bounds[3] = {0, 0, 1};
  for (size_t i = 0; i < count; ++i) {
    MINIMO_ASSIGN(bounds[count == 1 ? 1 : i], ToIndex(args.positional[i]));
  }
  const auto [start, stop, step] = bounds;
  if (step == 0) return Errorf("range() arg 3 must not be zero");
  constexpr int64_t kMaxRange = 100'000;  // of Jinja's sandbox
  auto list = std::make_shared<List>();
  list->kind = List::Kind::kRange;
  list->range = {start, stop, step};
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (list->items.size() == kMaxRange) {
      return Errorf("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxRange);
    }
    list->items.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  list->extent.weight += static_cast<int64_t>(list->items.size());
  MINIMO_TRY(runtime.ChargeItems(list->items.size()));
  return Value::Of(std::shared_ptr<const List>(std::move(list)));
}

// dict(mapping or pairs, key=value, ...): what the argument gives, then the keywords.
Result<Dict> ReadDict(Runtime& runtime, Args& args, const char* name) {
  Dict dict;
  if (args.positional.size() > 1) return Errorf("{} expected at most 1 argument, got {}", name, args.positional.size());
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (source.IsDict()) {
      MINIMO_TRY(runtime.ChargeItems(source.AsDict().items.size()));
      dict = source.AsDict();
    } else {
      MINIMO_ASSIGN(const Values pairs, Iterate(runtime, source));
      for (const Value& pair : pairs) {
        if (!IsIterable(pair)) {
          return Errorf("cannot convert dictionary update sequence element #{} to a sequence", dict.items.size());
        }
        MINIMO_ASSIGN(Values parts, Iterate(runtime, pair));
        if (parts.size() != 2) {
          return Errorf("dictionary update sequence element #{} has length {}; 2 is required", dict.items.size(),
                        parts.size());
        }
        if (!Hashable(parts[0])) return Errorf("unhashable type: '{}'", TypeName(parts[0]));
        if (!parts[0].IsString()) MINIMO_TRY(runtime.ChargeItems(dict.items.size()));
        dict.Set(std::move(parts[0]), std::move(parts[1]));
      }
    }
  }
  for (auto& [key, value] : args.keyword) dict.Set(Value::String(key), std::move(value));
  return dict;
}

Result<Value> CallDict(Runtime& runtime, const Value&, Args& args) {
  MINIMO_ASSIGN(Dict dict, ReadDict(runtime, args, "dict"));
  return MakeDict(std::move(dict));
}

Result<Value> CallNamespace(Runtime& runtime, const Value&, Args& args) {
  auto result = runtime.NewNamespace();
  MINIMO_ASSIGN(result->attributes, ReadDict(runtime, args, "namespace"));
  return Value::Of(std::shared_ptr<Object>(std::move(result)));
}

Result<Value> CallCycler(Runtime&, const Value&, Args& args) {
  if (args.positional.empty()) return Errorf("at least one item has to be provided");
  auto cycler = std::make_shared<Cycler>();
  for (const Value& item : args.positional)
    cycler->extent.nesting = std::max(cycler->extent.nesting, item.GetExtent().nesting + 1);
  if (cycler->extent.nesting > kMaxNesting) return Errorf("a value is nested too deep");
  cycler->items = std::move(args.positional);
  return Value::Of(std::shared_ptr<Object>(std::move(cycler)));
}

Result<Value> CallJoiner(Runtime&, const Value&, Args& args) {
  ArgReader reader("Joiner.__init__", args);
  auto joiner = std::make_shared<Joiner>();
  joiner->separator = reader.Optional("sep", Value::String(", "));
  joiner->extent.nesting = joiner->separator.GetExtent().nesting + 1;
  if (joiner->extent.nesting > kMaxNesting) return Errorf("a value is nested too deep");
  MINIMO_TRY(reader.Done());
  return Value::Of(std::shared_ptr<Object>(std::move(joiner)));
}

Result<Value> RaiseException(Runtime&, const Value&, Args& args) {
  ArgReader reader("raise_exception", args);
  const Value message = reader.Required("message");
  MINIMO_TRY(reader.Done());
  return Error{Str(message)};
}

// datetime.now().strftime(format), in local time.
Result<Value> StrftimeNow(Runtime& runtime, const Value&, Args& args) {
  ArgReader reader("strftime_now", args);
  const Value format_value = reader.Required("format");
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const std::string given, ToText(format_value, "strftime() argument 1"));
  MINIMO_TRY(runtime.ChargeText(given.size() * 16));
  const auto since_epoch = runtime.now().time_since_epoch();
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(since_epoch).count() % 1'000'000;
  std::string format;
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i] != '%') {
      format += given[i];
    } else if (i + 1 < given.size() && given[i + 1] == 'f') {
      format += fmt::format("{:06}", micros);
      ++i;
    } else {
      format += '%';
      if (i + 1 < given.size()) format += given[++i];
    }
  }
  const std::time_t seconds = std::chrono::system_clock::to_time_t(runtime.now());
  std::tm local = {};
  localtime_r(&seconds, &local);
  std::string out(64 + 16 * format.size(), '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return Value::String(std::move(out));
}

}  // namespace

std::optional<Value> FindGlobal(std::string_view name) {
  static constexpr std::pair<const char*, Function> kGlobals[] = {
      {"range", MakeRange},          {"dict", CallDict},     {"namespace", CallNamespace},
      {"cycler", CallCycler},        {"joiner", CallJoiner}, {"raise_exception", RaiseException},
      {"strftime_now", StrftimeNow},
  };
  for (const auto& [known, function] : kGlobals) {
    if (name == known) return Value::Of(std::shared_ptr<Object>(std::make_shared<Builtin>(known, function)));
  }
  return std::nullopt;
}

Runtime::~Runtime() {
  for (const auto& item : namespaces_) item->attributes = Dict();
}

std::shared_ptr<Namespace> Runtime::NewNamespace() {
  namespaces_.push_back(std::make_shared<Namespace>());
  return namespaces_.back();
}

std::string Namespace::Repr() const {
  if (printing) return "<Namespace {...}>";
  printing = true;
  std::string inside = "{";
  for (const auto& [key, value] : attributes.items) {
    inside += (inside.size() > 1 ? ", " : "") + jinja::Repr(key) + ": " + jinja::Repr(value);
  }
  printing = false;
  return "<Namespace " + inside + "}>";
}

Result<std::optional<Value>> Namespace::GetAttr(Runtime&, std::string_view name) {
  const Value* value = attributes.Find(name);
  return value == nullptr ? std::optional<Value>() : *value;
}

}  // namespace minimo::jinja
