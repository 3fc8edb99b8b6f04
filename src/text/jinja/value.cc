#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace minimo::jinja {
namespace {

void Enclose(const Value& inner, Extent& outer) {
  const Extent extent = inner.GetExtent();
  outer.nesting = std::max(outer.nesting, extent.nesting + 1);
  outer.weight = std::min(outer.weight + extent.weight, kMaxWeight + 1);
}

Status CheckExtent(const Extent& extent) {
  if (extent.nesting > kMaxNesting) return Errorf("a value is nested more than {} levels deep", kMaxNesting);
  if (extent.weight > kMaxWeight) return Errorf("a value has grown too large");
  return {};
}

}  // namespace

Value Value::Undefined(std::string message) {
  Value value;
  value.state_.emplace<0>(UndefinedState{std::make_shared<const std::string>(std::move(message))});
  return value;
}

Value Value::Bool(bool flag) {
  Value value;
  value.state_.emplace<2>(flag);
  return value;
}

Value Value::Int(int64_t number) {
  Value value;
  value.state_.emplace<3>(number);
  return value;
}

Value Value::Float(double number) {
  Value value;
  value.state_.emplace<4>(number);
  return value;
}

Value Value::String(std::string text, bool markup) {
  Value value;
  value.state_.emplace<5>(Text{std::make_shared<const std::string>(std::move(text)), markup});
  return value;
}

Value Value::Of(std::shared_ptr<const List> list) {
  Value value;
  value.state_.emplace<6>(std::move(list));
  return value;
}

Value Value::Of(std::shared_ptr<const Dict> dict) {
  Value value;
  value.state_.emplace<7>(std::move(dict));
  return value;
}

Value Value::Of(std::shared_ptr<Object> object) {
  Value value;
  value.state_.emplace<8>(std::move(object));
  return value;
}

bool Value::Truthy() const {
  switch (kind()) {
    case Kind::kUndefined:
    case Kind::kNone: return false;
    case Kind::kBool:
    case Kind::kInt: return AsInt() != 0;
    case Kind::kFloat: return AsDouble() != 0;
    case Kind::kString: return !AsString().empty();
    case Kind::kList: return AsList().kind == List::Kind::kGenerator || !AsList().items.empty();
    case Kind::kDict: return !AsDict().items.empty();
    case Kind::kObject: return true;
  }
  return false;
}

Extent Value::GetExtent() const {
  switch (kind()) {
    case Kind::kString: return {0, 1 + static_cast<int64_t>(AsString().size() / 32)};
    case Kind::kList: return AsList().extent;
    case Kind::kDict: return AsDict().extent;
    case Kind::kObject: return AsObject().extent;
    default: return {};
  }
}

bool Value::Is(const Value& other) const {
  if (kind() != other.kind()) return false;
  switch (kind()) {
    case Kind::kUndefined: return std::get<0>(state_).message == std::get<0>(other.state_).message;
    case Kind::kNone: return true;
    case Kind::kBool:
    case Kind::kInt: return AsInt() == other.AsInt();
    case Kind::kFloat: return AsDouble() == other.AsDouble();
    case Kind::kString: return AsString() == other.AsString();  // CPython interns what templates can compare
    case Kind::kList: return &AsList() == &other.AsList();
    case Kind::kDict: return &AsDict() == &other.AsDict();
    case Kind::kObject: return &AsObject() == &other.AsObject();
  }
  return false;
}

const Value* Dict::Find(std::string_view key) const {
  const auto found = by_text_.find(key);
  return found == by_text_.end() ? nullptr : &items[found->second].second;
}

const Value* Dict::Find(const Value& key) const {
  if (key.IsString()) return Find(std::string_view(key.AsString()));
  for (const auto& [name, value] : items) {
    if (!name.IsString() && Equal(name, key)) return &value;
  }
  return nullptr;
}

void Dict::Set(Value key, Value value) {
  Enclose(key, extent);
  Enclose(value, extent);
  if (const Value* present = Find(key)) {
    *const_cast<Value*>(present) = std::move(value);
    return;
  }
  items.emplace_back(std::move(key), std::move(value));
  const Value& stored = items.back().first;
  if (stored.IsString()) by_text_.emplace(stored.AsString(), items.size() - 1);
}

Result<Value> Object::Call(Runtime&, Args) {
  const std::string_view name = TypeName();
  return Errorf("'{}' object is not callable", name.substr(0, name.find(' ')));
}

Result<Value> MakeList(Values items, List::Kind kind) {
  auto list = std::make_shared<List>();
  for (const Value& item : items) Enclose(item, list->extent);
  MINIMO_TRY(CheckExtent(list->extent));
  list->items = std::move(items);
  list->kind = kind;
  return Value::Of(std::shared_ptr<const List>(std::move(list)));
}

Result<Value> MakeDict(Dict dict) {
  MINIMO_TRY(CheckExtent(dict.extent));
  return Value::Of(std::make_shared<const Dict>(std::move(dict)));
}

std::string TypeName(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined: return "Undefined";
    case Value::Kind::kNone: return "NoneType";
    case Value::Kind::kBool: return "bool";
    case Value::Kind::kInt: return "int";
    case Value::Kind::kFloat: return "float";
    case Value::Kind::kString: return value.IsMarkup() ? "Markup" : "str";
    case Value::Kind::kDict: return "dict";
    case Value::Kind::kObject: {
      // "jinja2.utils.Namespace object" -> "Namespace"
      std::string name = value.AsObject().TypeName();
      name.resize(std::min(name.size(), name.find(' ')));
      return name.substr(name.rfind('.') + 1);
    }
    case Value::Kind::kList: break;
  }
  switch (value.AsList().kind) {
    case List::Kind::kList: return "list";
    case List::Kind::kTuple: return "tuple";
    case List::Kind::kRange: return "range";
    case List::Kind::kKeys: return "dict_keys";
    case List::Kind::kValues: return "dict_values";
    case List::Kind::kItems: return "dict_items";
    case List::Kind::kGenerator: return "generator";
  }
  return "";
}

std::string ObjectTypeRepr(const Value& value) {
  if (value.IsNone()) return "None";
  if (value.IsObject()) return value.AsObject().TypeName();
  if (value.IsUndefined()) return "jinja2.runtime.Undefined object";
  if (value.IsMarkup()) return "markupsafe.Markup object";
  return fmt::format("{} object", TypeName(value));
}

bool Hashable(const Value& value) {
  if (value.IsDict()) return false;
  if (!value.IsList()) return true;
  const List& list = value.AsList();
  if (list.kind == List::Kind::kTuple) return std::all_of(list.items.begin(), list.items.end(), Hashable);
  return list.kind == List::Kind::kRange || list.kind == List::Kind::kGenerator;
}

namespace {

bool EqualLists(const List& a, const List& b) {
  if (&a == &b) return true;
  if (a.kind != b.kind || a.kind == List::Kind::kGenerator || a.kind == List::Kind::kValues) return false;
  return a.items.size() == b.items.size() && std::equal(a.items.begin(), a.items.end(), b.items.begin(), Equal);
}

bool EqualDicts(const Dict& a, const Dict& b) {
  if (&a == &b) return true;
  if (a.items.size() != b.items.size()) return false;
  return std::all_of(a.items.begin(), a.items.end(), [&b](const auto& item) {
    const Value* other = b.Find(item.first);
    return other != nullptr && Equal(item.second, *other);
  });
}

// -1, 0, 1; the integer and the double are compared exactly.
int CompareIntDouble(int64_t a, double b) {
  if (b >= 0x1p63) return -1;
  if (b < -0x1p63) return 1;
  const double whole = std::floor(b);
  const int64_t b_int = static_cast<int64_t>(whole);
  if (a != b_int) return a < b_int ? -1 : 1;
  return b > whole ? -1 : 0;
}

// Requires two numbers, neither NaN.
int CompareNumbers(const Value& a, const Value& b) {
  if (a.IsIntegral() && b.IsIntegral()) return a.AsInt() < b.AsInt() ? -1 : a.AsInt() > b.AsInt();
  if (a.IsIntegral()) return CompareIntDouble(a.AsInt(), b.AsDouble());
  if (b.IsIntegral()) return -CompareIntDouble(b.AsInt(), a.AsDouble());
  return a.AsDouble() < b.AsDouble() ? -1 : a.AsDouble() > b.AsDouble();
}

bool IsNan(const Value& value) { return value.IsFloat() && std::isnan(value.AsDouble()); }

}  // namespace

bool Equal(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) return !IsNan(a) && !IsNan(b) && CompareNumbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Value::Kind::kUndefined:
    case Value::Kind::kNone: return true;
    case Value::Kind::kString: return a.AsString() == b.AsString();
    case Value::Kind::kList: return EqualLists(a.AsList(), b.AsList());
    case Value::Kind::kDict: return EqualDicts(a.AsDict(), b.AsDict());
    default: return a.Is(b);
  }
}

Result<int> Compare(const Value& a, const Value& b, const char* op) {
  if (a.IsUndefined()) return Error{a.UndefinedMessage()};
  if (b.IsUndefined()) return Error{b.UndefinedMessage()};
  if (a.IsNumber() && b.IsNumber()) {
    // NaN is neither less nor more; 2 answers "false" to each of <, <=, >, >=.
    return IsNan(a) || IsNan(b) ? 2 : CompareNumbers(a, b);
  }
  // The order of UTF-8 bytes is the order of code points.
  if (a.IsString() && b.IsString()) return std::clamp(a.AsString().compare(b.AsString()), -1, 1);
  if (a.IsList() && b.IsList() && a.AsList().kind == b.AsList().kind &&
      (a.AsList().kind == List::Kind::kList || a.AsList().kind == List::Kind::kTuple)) {
    const Values& x = a.AsList().items;
    const Values& y = b.AsList().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!Equal(x[i], y[i])) return Compare(x[i], y[i], op);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  return Errorf("'{}' not supported between instances of '{}' and '{}'", op, TypeName(a), TypeName(b));
}

}  // namespace minimo::jinja
