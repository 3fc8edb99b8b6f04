#include "text/jinja/ops.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/format.h"
#include "text/jinja/unicode.h"

namespace minimo::jinja {
namespace {

constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

Error TooLarge() { return Error{"the integer is too large"}; }

Error Unsupported(BinaryOp op, const Value& a, const Value& b) {
  return Errorf("unsupported operand type(s) for {}: '{}' and '{}'", kSymbols[static_cast<int>(op)], TypeName(a),
                TypeName(b));
}

int64_t FloorDiv(int64_t a, int64_t b) {  // b is neither 0 nor (with the least a) -1
  const int64_t quotient = a / b;
  return quotient - ((a % b != 0) && ((a < 0) != (b < 0)));
}

Result<Value> IntPower(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return Errorf("0.0 cannot be raised to a negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return TooLarge();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return TooLarge();
  }
  return Value::Int(result);
}

Result<Value> IntOperation(BinaryOp op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case BinaryOp::kAdd: return __builtin_add_overflow(a, b, &result) ? Result<Value>(TooLarge()) : Value::Int(result);
    case BinaryOp::kSub: return __builtin_sub_overflow(a, b, &result) ? Result<Value>(TooLarge()) : Value::Int(result);
    case BinaryOp::kMul: return __builtin_mul_overflow(a, b, &result) ? Result<Value>(TooLarge()) : Value::Int(result);
    case BinaryOp::kDiv:
      if (b == 0) return Errorf("division by zero");
      return Value::Float(static_cast<double>(a) / static_cast<double>(b));
    case BinaryOp::kFloorDiv:
      if (b == 0) return Errorf("integer division or modulo by zero");
      if (b == -1)
        return __builtin_sub_overflow(int64_t{0}, a, &result) ? Result<Value>(TooLarge()) : Value::Int(result);
      return Value::Int(FloorDiv(a, b));
    case BinaryOp::kMod:
      if (b == 0) return Errorf("integer modulo by zero");
      return Value::Int(b == -1 ? 0 : a - FloorDiv(a, b) * b);
    case BinaryOp::kPow: return IntPower(a, b);
  }
  return Value();
}

double FloatMod(double a, double b) {
  double result = std::fmod(a, b);
  if (result != 0 && (result < 0) != (b < 0)) result += b;
  return result == 0 ? std::copysign(0.0, b) : result;
}

Result<Value> FloatPower(double a, double b) {
  if (a == 0 && b < 0) return Errorf("0.0 cannot be raised to a negative power");
  if (a < 0 && std::isfinite(b) && b != std::floor(b))
    return Errorf("a negative number cannot have a fractional power");
  const double result = std::pow(a, b);
  if (std::isinf(result) && std::isfinite(a) && std::isfinite(b))
    return Errorf("(34, 'Numerical result out of range')");
  return Value::Float(result);
}

Result<Value> FloatOperation(BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd: return Value::Float(a + b);
    case BinaryOp::kSub: return Value::Float(a - b);
    case BinaryOp::kMul: return Value::Float(a * b);
    case BinaryOp::kDiv:
      if (b == 0) return Errorf("float division by zero");
      return Value::Float(a / b);
    case BinaryOp::kFloorDiv:
      if (b == 0) return Errorf("float floor division by zero");
      return Value::Float(std::floor((a - FloatMod(a, b)) / b + 0.5));
    case BinaryOp::kMod:
      if (b == 0) return Errorf("float modulo");
      return Value::Float(FloatMod(a, b));
    case BinaryOp::kPow: return FloatPower(a, b);
  }
  return Value();
}

// Text with Markup's rule: where one side is markup, the other is escaped.
Result<Value> Join(Runtime& runtime, const Value& a, const Value& b) {
  const bool markup = a.IsMarkup() || b.IsMarkup();
  const auto text = [markup](const Value& v) {
    return markup && !v.IsMarkup() ? EscapeHtml(v.AsString()) : v.AsString();
  };
  MINIMO_TRY(runtime.ChargeText(a.AsString().size() + b.AsString().size()));
  return Value::String(text(a) + text(b), markup);
}

// Text that goes into markup by %.
Result<Value> EscapeForMarkup(const Value& value) {
  if (value.IsString()) return value.IsMarkup() ? value : Value::String(EscapeHtml(value.AsString()), true);
  if (!value.IsList() || value.AsList().kind != List::Kind::kTuple) return value;
  Values items = value.AsList().items;
  for (Value& item : items) {
    if (item.IsString() && !item.IsMarkup()) item = Value::String(EscapeHtml(item.AsString()), true);
  }
  return MakeList(std::move(items), List::Kind::kTuple);
}

Result<Value> Repeat(Runtime& runtime, const Value& sequence, int64_t times) {
  const uint64_t count = times > 0 ? static_cast<uint64_t>(times) : 0;
  if (sequence.IsString()) {
    const std::string& text = sequence.AsString();
    if (count > 0 && text.size() > Runtime::kMaxTextBytes / count)
      return runtime.ChargeText(Runtime::kMaxTextBytes + 1).error();
    MINIMO_TRY(runtime.ChargeText(text.size() * count));
    std::string out;
    out.reserve(text.size() * count);
    for (uint64_t i = 0; i < count && !text.empty(); ++i) out += text;
    return Value::String(std::move(out), sequence.IsMarkup());
  }
  const List& list = sequence.AsList();
  if (count > kMaxWeight) return runtime.ChargeItems(count).error();
  MINIMO_TRY(runtime.ChargeItems(list.items.size() * count));
  Values items;
  for (uint64_t i = 0; i < count && !list.items.empty(); ++i)
    items.insert(items.end(), list.items.begin(), list.items.end());
  return MakeList(std::move(items), list.kind);
}

bool IsSequence(const Value& value) {
  return value.IsString() ||
         (value.IsList() && (value.AsList().kind == List::Kind::kList || value.AsList().kind == List::Kind::kTuple));
}

Result<Value> AddSequences(Runtime& runtime, const Value& a, const Value& b) {
  if (a.IsString() && b.IsString()) return Join(runtime, a, b);
  if (a.IsString()) return Errorf("can only concatenate str (not \"{}\") to str", TypeName(b));
  if (!b.IsList() || a.AsList().kind != b.AsList().kind) {
    const std::string type = TypeName(a);
    return Errorf("can only concatenate {} (not \"{}\") to {}", type, TypeName(b), type);
  }
  Values items = a.AsList().items;
  items.insert(items.end(), b.AsList().items.begin(), b.AsList().items.end());
  MINIMO_TRY(runtime.ChargeItems(items.size()));
  return MakeList(std::move(items), a.AsList().kind);
}

}  // namespace

Result<Value> BinaryOperation(Runtime& runtime, BinaryOp op, const Value& a, const Value& b) {
  if (op == BinaryOp::kMod && a.IsString()) {
    Value values = b;
    if (a.IsMarkup()) {
      MINIMO_ASSIGN(values, EscapeForMarkup(b));
    }
    MINIMO_ASSIGN(std::string text, PercentFormat(runtime, a.AsString(), values));
    return Value::String(std::move(text), a.IsMarkup());
  }
  if (a.IsUndefined()) return Error{a.UndefinedMessage()};
  if (b.IsUndefined()) return Error{b.UndefinedMessage()};
  if (a.IsIntegral() && b.IsIntegral()) return IntOperation(op, a.AsInt(), b.AsInt());
  if (a.IsNumber() && b.IsNumber()) return FloatOperation(op, a.AsDouble(), b.AsDouble());
  if (op == BinaryOp::kAdd && IsSequence(a)) return AddSequences(runtime, a, b);
  if (op == BinaryOp::kMul && (IsSequence(a) || IsSequence(b))) {
    const Value& sequence = IsSequence(a) ? a : b;
    const Value& times = IsSequence(a) ? b : a;
    if (!times.IsIntegral()) return Errorf("can't multiply sequence by non-int of type '{}'", TypeName(times));
    return Repeat(runtime, sequence, times.AsInt());
  }
  return Unsupported(op, a, b);
}

Result<Value> Negate(const Value& value, bool negative) {
  if (value.IsUndefined()) return Error{value.UndefinedMessage()};
  if (value.IsFloat()) return Value::Float(negative ? -value.AsDouble() : value.AsDouble());
  if (!value.IsIntegral()) return Errorf("bad operand type for unary {}: '{}'", negative ? "-" : "+", TypeName(value));
  return negative ? IntOperation(BinaryOp::kSub, 0, value.AsInt()) : Value::Int(value.AsInt());
}

Result<bool> CompareOperation(Runtime& runtime, CompareOp op, const Value& a, const Value& b) {
  MINIMO_TRY(runtime.Charge(std::min(a.GetExtent().weight, b.GetExtent().weight)));
  switch (op) {
    case CompareOp::kEq: return Equal(a, b);
    case CompareOp::kNe: return !Equal(a, b);
    case CompareOp::kIn: return Contains(runtime, b, a);
    case CompareOp::kNotIn: {
      MINIMO_ASSIGN(const bool contains, Contains(runtime, b, a));
      return !contains;
    }
    case CompareOp::kLt: {
      MINIMO_ASSIGN(const int order, Compare(a, b, "<"));
      return order == -1;
    }
    case CompareOp::kLe: {
      MINIMO_ASSIGN(const int order, Compare(a, b, "<="));
      return order == -1 || order == 0;
    }
    case CompareOp::kGt: {
      MINIMO_ASSIGN(const int order, Compare(a, b, ">"));
      return order == 1;
    }
    case CompareOp::kGe: {
      MINIMO_ASSIGN(const int order, Compare(a, b, ">="));
      return order == 1 || order == 0;
    }
  }
  return false;
}

Result<bool> Contains(Runtime& runtime, const Value& container, const Value& item) {
  if (container.IsString()) {
    if (!item.IsString()) return Errorf("'in <string>' requires string as left operand, not {}", TypeName(item));
    MINIMO_TRY(runtime.ChargeText(container.AsString().size()));
    return container.AsString().find(item.AsString()) != std::string::npos;
  }
  if (container.IsDict()) {
    if (!Hashable(item)) return Errorf("unhashable type: '{}'", TypeName(item));
    if (!item.IsString()) MINIMO_TRY(runtime.ChargeItems(container.AsDict().items.size()));
    return container.AsDict().Find(item) != nullptr;
  }
  if (!IsIterable(container)) return Errorf("argument of type '{}' is not iterable", TypeName(container));
  MINIMO_ASSIGN(const Values items, Iterate(runtime, container));
  MINIMO_TRY(runtime.Charge(
      std::min(container.GetExtent().weight, item.GetExtent().weight * static_cast<int64_t>(1 + items.size()))));
  return std::any_of(items.begin(), items.end(), [&item](const Value& v) { return Equal(v, item); });
}

Result<Value> GetAttr(Runtime& runtime, const Value& value, std::string_view name) {
  if (value.IsUndefined()) return Error{value.UndefinedMessage()};
  if (value.IsObject()) {
    MINIMO_ASSIGN(std::optional<Value> attribute, value.AsObject().GetAttr(runtime, name));
    if (attribute) return *std::move(attribute);
  } else if (std::optional<Value> method = FindMethod(value, name)) {
    return *std::move(method);
  } else if (value.IsDict()) {
    if (const Value* item = value.AsDict().Find(name)) return *item;
  }
  if (name.size() > 4 && name.substr(0, 2) == "__" && name.substr(name.size() - 2) == "__") {
    return Value::Undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, TypeName(value)));
  }
  return Value::Undefined(fmt::format("'{}' has no attribute {}", ObjectTypeRepr(value), StringRepr(name)));
}

namespace {

// The index within a sequence of `size` items, negative ones from the end; -1 if there is no such item.
int64_t ResolveIndex(const Value& key, size_t size) {
  if (!key.IsIntegral()) return -1;
  const int64_t count = static_cast<int64_t>(size);
  const int64_t index = key.AsInt() < 0 ? key.AsInt() + count : key.AsInt();
  return index >= 0 && index < count ? index : -1;
}

}  // namespace

Result<Value> GetItem(Runtime& runtime, const Value& value, const Value& key) {
  if (value.IsUndefined()) return Error{value.UndefinedMessage()};
  if (value.IsDict() && Hashable(key)) {
    if (!key.IsString()) MINIMO_TRY(runtime.ChargeItems(value.AsDict().items.size()));
    if (const Value* item = value.AsDict().Find(key)) return *item;
  } else if (value.IsString() && key.IsIntegral()) {
    const std::string& text = value.AsString();
    MINIMO_TRY(runtime.ChargeText(text.size()));
    if (const int64_t index = ResolveIndex(key, CodePoints(text)); index >= 0) {
      const size_t begin = ByteOffset(text, static_cast<size_t>(index));
      size_t end = begin;
      DecodeAt(text, end);
      return Value::String(text.substr(begin, end - begin), value.IsMarkup());
    }
  } else if (value.IsList() && value.AsList().Indexable()) {
    const Values& items = value.AsList().items;
    if (const int64_t index = ResolveIndex(key, items.size()); index >= 0) return items[static_cast<size_t>(index)];
  }
  if (key.IsString()) return GetAttr(runtime, value, key.AsString());
  return Value::Undefined(fmt::format("{} has no element {}", ObjectTypeRepr(value), Repr(key)));
}

namespace {

struct SliceRange {
  int64_t start;
  int64_t step;
  int64_t count;
};

Result<SliceRange> ResolveSlice(const Value& start, const Value& stop, const Value& step, size_t size) {
  for (const Value* part : {&start, &stop, &step}) {
    if (!part->IsNone() && !part->IsIntegral()) {
      return Errorf("slice indices must be integers or None or have an __index__ method");
    }
  }
  const int64_t length = static_cast<int64_t>(size);
  const int64_t by = step.IsNone() ? 1 : std::clamp<int64_t>(step.AsInt(), -(int64_t{1} << 40), int64_t{1} << 40);
  if (by == 0) return Errorf("slice step cannot be zero");
  const int64_t lowest = by > 0 ? 0 : -1;
  const int64_t highest = by > 0 ? length : length - 1;
  const auto resolve = [&](const Value& part, int64_t otherwise) {
    if (part.IsNone()) return otherwise;
    const int64_t index = part.AsInt();
    if (index < -length) return lowest;
    return std::clamp(index < 0 ? index + length : index, lowest, highest);
  };
  const int64_t first = resolve(start, by > 0 ? lowest : highest);
  const int64_t last = resolve(stop, by > 0 ? highest : lowest);
  const int64_t span = by > 0 ? last - first : first - last;
  const int64_t pace = by > 0 ? by : -by;
  return SliceRange{first, by, span <= 0 ? 0 : (span + pace - 1) / pace};
}

}  // namespace

Result<Value> GetSlice(Runtime& runtime, const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (value.IsUndefined()) return Error{value.UndefinedMessage()};
  if (value.IsString()) {
    MINIMO_TRY(runtime.ChargeText(4 * value.AsString().size()));
    const std::u32string text = Decode(value.AsString());
    MINIMO_ASSIGN(const SliceRange range, ResolveSlice(start, stop, step, text.size()));
    std::string out;
    for (int64_t i = 0; i < range.count; ++i) AppendUtf8(out, text[static_cast<size_t>(range.start + i * range.step)]);
    return Value::String(std::move(out), value.IsMarkup());
  }
  if (value.IsList() && value.AsList().Indexable()) {
    const Values& items = value.AsList().items;
    MINIMO_ASSIGN(const SliceRange range, ResolveSlice(start, stop, step, items.size()));
    MINIMO_TRY(runtime.ChargeItems(static_cast<uint64_t>(range.count)));
    Values out;
    for (int64_t i = 0; i < range.count; ++i) out.push_back(items[static_cast<size_t>(range.start + i * range.step)]);
    if (value.AsList().kind != List::Kind::kRange) return MakeList(std::move(out), value.AsList().kind);
    auto part = std::make_shared<List>(value.AsList());
    const int64_t first = part->range[0];
    const int64_t by = part->range[2];
    part->range = {first + range.start * by, first + (range.start + range.count * range.step) * by, by * range.step};
    part->items = std::move(out);
    return Value::Of(std::shared_ptr<const List>(std::move(part)));
  }
  if (value.IsDict()) return Errorf("unhashable type: 'slice'");
  return Errorf("'{}' object is not subscriptable", TypeName(value));
}

bool IsIterable(const Value& value) {
  return value.IsUndefined() || value.IsString() || value.IsList() || value.IsDict();
}

Result<Values> Iterate(Runtime& runtime, const Value& value) {
  Values items;
  switch (value.kind()) {
    case Value::Kind::kUndefined: return items;
    case Value::Kind::kString: {
      const std::string& text = value.AsString();
      MINIMO_TRY(runtime.ChargeItems(text.size()));
      for (size_t i = 0; i < text.size();) {
        const size_t begin = i;
        DecodeAt(text, i);
        items.push_back(Value::String(text.substr(begin, i - begin)));
      }
      return items;
    }
    case Value::Kind::kList: {
      const List& list = value.AsList();
      if (list.kind != List::Kind::kGenerator) {
        MINIMO_TRY(runtime.ChargeItems(list.items.size()));
        return list.items;
      }
      items.assign(list.items.begin() + static_cast<std::ptrdiff_t>(list.next), list.items.end());
      list.next = list.items.size();
      return items;
    }
    case Value::Kind::kDict:
      MINIMO_TRY(runtime.ChargeItems(value.AsDict().items.size()));
      for (const auto& item : value.AsDict().items) items.push_back(item.first);
      return items;
    default: return Errorf("'{}' object is not iterable", TypeName(value));
  }
}

Result<int64_t> Length(const Value& value) {
  if (value.IsUndefined()) return int64_t{0};
  if (value.IsString()) return static_cast<int64_t>(CodePoints(value.AsString()));
  if (value.IsDict()) return static_cast<int64_t>(value.AsDict().items.size());
  if (value.IsList() && value.AsList().kind != List::Kind::kGenerator) {
    return static_cast<int64_t>(value.AsList().items.size());
  }
  return Errorf("object of type '{}' has no len()", TypeName(value));
}

Result<Value> CallValue(Runtime& runtime, const Value& callee, Args args) {
  if (callee.IsUndefined()) return Error{callee.UndefinedMessage()};
  if (!callee.IsObject()) return Errorf("'{}' object is not callable", TypeName(callee));
  return callee.AsObject().Call(runtime, std::move(args));
}

}  // namespace minimo::jinja
