// `x is test`.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/format.h"
#include "text/jinja/ops.h"
#include "text/jinja/unicode.h"

namespace minimo::jinja {
namespace {

// A test without arguments that only looks.
template <bool (*Predicate)(const Value&)>
Result<bool> Plain(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("test", args).Done());
  return Predicate(subject);
}

template <CompareOp kOp>
Result<bool> Compared(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("test", args);
  const Value other = reader.Required("b");
  MINIMO_TRY(reader.Done());
  return CompareOperation(runtime, kOp, subject, other);
}

Result<bool> Remainder(Runtime& runtime, const Value& subject, const Value& divisor, int64_t wanted) {
  MINIMO_ASSIGN(const Value rest, BinaryOperation(runtime, BinaryOp::kMod, subject, divisor));
  return Equal(rest, Value::Int(wanted));
}

Result<bool> Odd(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("odd", args).Done());
  return Remainder(runtime, subject, Value::Int(2), 1);
}

Result<bool> Even(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("even", args).Done());
  return Remainder(runtime, subject, Value::Int(2), 0);
}

Result<bool> DivisibleBy(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("divisibleby", args);
  const Value divisor = reader.Required("num");
  MINIMO_TRY(reader.Done());
  return Remainder(runtime, subject, divisor, 0);
}

Result<bool> SameAs(Runtime&, const Value& subject, Args& args) {
  ArgReader reader("sameas", args);
  const Value other = reader.Required("other");
  MINIMO_TRY(reader.Done());
  return subject.Is(other);
}

Result<bool> IsFilterName(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("filter", args).Done());
  return subject.IsString() && FindFilter(subject.AsString()) != nullptr;
}

Result<bool> IsTestName(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("test", args).Done());
  return subject.IsString() && FindTest(subject.AsString()) != nullptr;
}

// At least one cased letter, and none of the other case.
template <bool kUpper>
Result<bool> IsCase(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("test", args).Done());
  const std::string text = Str(subject);
  MINIMO_TRY(runtime.ChargeText(text.size()));
  bool found = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = DecodeAt(text, i);
    if (IsTitle(c) || (kUpper ? IsLower(c) : IsUpper(c))) return false;
    found |= kUpper ? IsUpper(c) : IsLower(c);
  }
  return found;
}

bool IsDefined(const Value& v) { return !v.IsUndefined(); }
bool IsUndefinedValue(const Value& v) { return v.IsUndefined(); }
bool IsNoneValue(const Value& v) { return v.IsNone(); }
bool IsBoolean(const Value& v) { return v.IsBool(); }
bool IsTrue(const Value& v) { return v.IsBool() && v.Truthy(); }
bool IsFalse(const Value& v) { return v.IsBool() && !v.Truthy(); }
bool IsInteger(const Value& v) { return v.IsInt(); }
bool IsFloatValue(const Value& v) { return v.IsFloat(); }
bool IsNumberValue(const Value& v) { return v.IsNumber(); }
bool IsStringValue(const Value& v) { return v.IsString(); }
bool IsMapping(const Value& v) { return v.IsDict(); }
bool IsEscaped(const Value& v) { return v.IsMarkup(); }
bool IsCallableValue(const Value& v) { return v.IsUndefined() || (v.IsObject() && v.AsObject().Callable()); }
bool IsIterableValue(const Value& v) { return IsIterable(v) || (v.IsObject() && v.AsObject().Iterable()); }
bool IsSequenceValue(const Value& v) {
  return v.IsUndefined() || v.IsString() || v.IsDict() || (v.IsList() && v.AsList().Indexable());
}

}  // namespace

Test FindTest(std::string_view name) {
  static constexpr std::pair<std::string_view, Test> kTests[] = {
      {"defined", Plain<IsDefined>},
      {"undefined", Plain<IsUndefinedValue>},
      {"none", Plain<IsNoneValue>},
      {"boolean", Plain<IsBoolean>},
      {"true", Plain<IsTrue>},
      {"false", Plain<IsFalse>},
      {"integer", Plain<IsInteger>},
      {"float", Plain<IsFloatValue>},
      {"number", Plain<IsNumberValue>},
      {"string", Plain<IsStringValue>},
      {"mapping", Plain<IsMapping>},
      {"escaped", Plain<IsEscaped>},
      {"callable", Plain<IsCallableValue>},
      {"iterable", Plain<IsIterableValue>},
      {"sequence", Plain<IsSequenceValue>},
      {"lower", IsCase<false>},
      {"upper", IsCase<true>},
      {"odd", Odd},
      {"even", Even},
      {"divisibleby", DivisibleBy},
      {"sameas", SameAs},
      {"filter", IsFilterName},
      {"test", IsTestName},
      {"in", Compared<CompareOp::kIn>},
      {"eq", Compared<CompareOp::kEq>},
      {"==", Compared<CompareOp::kEq>},
      {"equalto", Compared<CompareOp::kEq>},
      {"ne", Compared<CompareOp::kNe>},
      {"!=", Compared<CompareOp::kNe>},
      {"lt", Compared<CompareOp::kLt>},
      {"<", Compared<CompareOp::kLt>},
      {"lessthan", Compared<CompareOp::kLt>},
      {"le", Compared<CompareOp::kLe>},
      {"<=", Compared<CompareOp::kLe>},
      {"gt", Compared<CompareOp::kGt>},
      {">", Compared<CompareOp::kGt>},
      {"greaterthan", Compared<CompareOp::kGt>},
      {"ge", Compared<CompareOp::kGe>},
      {">=", Compared<CompareOp::kGe>},
  };
  for (const auto& [known, test] : kTests) {
    if (name == known) return test;
  }
  return nullptr;
}

}  // namespace minimo::jinja
