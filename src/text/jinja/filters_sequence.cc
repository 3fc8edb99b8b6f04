// Filters whose subject is a sequence or a dict.
#include <algorithm>
#include <functional>
#include <utility>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/format.h"
#include "text/jinja/ops.h"
#include "text/jinja/unicode.h"

namespace minimo::jinja {
namespace {

using Getter = std::function<Result<Value>(Runtime&, const Value&)>;

// make_attrgetter: "a.b.0" looks up item after item; None is the identity. An undefined step becomes `otherwise`.
Getter AttributeGetter(const Value& attribute, bool ignore_case = false, Value otherwise = Value()) {
  Values parts;
  if (attribute.IsString()) {
    std::string_view rest = attribute.AsString();
    while (true) {
      const size_t dot = rest.find('.');
      const std::string part(rest.substr(0, dot));
      const bool digits = !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == part.npos;
      parts.push_back(digits ? Value::Int(std::atoll(part.c_str())) : Value::String(part));
      if (dot == rest.npos) break;
      rest.remove_prefix(dot + 1);
    }
  } else if (!attribute.IsNone()) {
    parts.push_back(attribute);
  }
  return [parts, ignore_case, otherwise](Runtime& runtime, const Value& item) -> Result<Value> {
    Value value = item;
    for (const Value& part : parts) {
      MINIMO_ASSIGN(value, GetItem(runtime, value, part));
      if (value.IsUndefined() && !otherwise.IsNone()) value = otherwise;
    }
    if (ignore_case && value.IsString()) return Value::String(Lower(value.AsString()));
    return value;
  };
}

Result<Value> Generator(Values items) { return MakeList(std::move(items), List::Kind::kGenerator); }

// Sorts stably by keys; an error of the comparison is the result.
Status SortByKeys(Runtime& runtime, std::vector<std::pair<Value, Value>>& keyed, bool reverse) {
  Status status;
  const auto less = [&](const auto& a, const auto& b) {
    if (!status.ok()) return false;
    const Value& left = reverse ? b.first : a.first;
    const Value& right = reverse ? a.first : b.first;
    if (status = runtime.Charge(std::min(left.GetExtent().weight, right.GetExtent().weight)); !status.ok())
      return false;
    const Result<int> order = Compare(left, right, "<");
    if (!order.ok()) status = order.error();
    return order.ok() && *order == -1;
  };
  std::stable_sort(keyed.begin(), keyed.end(), less);
  return status;
}

Result<std::vector<std::pair<Value, Value>>> WithKeys(Runtime& runtime, Values items, const Getter& key) {
  std::vector<std::pair<Value, Value>> keyed;
  keyed.reserve(items.size());
  for (Value& item : items) {
    MINIMO_TRY(runtime.Charge());
    MINIMO_ASSIGN(Value k, key(runtime, item));
    keyed.emplace_back(std::move(k), std::move(item));
  }
  return keyed;
}

Result<Value> First(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("first", args).Done());
  if (subject.IsList() && subject.AsList().kind == List::Kind::kGenerator) {
    const List& list = subject.AsList();
    if (list.next < list.items.size()) return list.items[list.next++];
  } else {
    MINIMO_ASSIGN(const Values items, Iterate(runtime, subject));
    if (!items.empty()) return items.front();
  }
  return Value::Undefined("No first item, sequence was empty.");
}

Result<Value> Last(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("last", args).Done());
  if (subject.IsObject() || !IsIterable(subject) ||
      (subject.IsList() && subject.AsList().kind == List::Kind::kGenerator)) {
    return Errorf("'{}' object is not reversible", TypeName(subject));
  }
  MINIMO_ASSIGN(const Values items, Iterate(runtime, subject));
  return items.empty() ? Value::Undefined("No last item, sequence was empty.") : items.back();
}

Result<Value> LengthFilter(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("len", args).Done());
  MINIMO_ASSIGN(const int64_t length, Length(subject));
  return Value::Int(length);
}

Result<Value> ToList(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("list", args).Done());
  MINIMO_ASSIGN(Values items, Iterate(runtime, subject));
  return MakeList(std::move(items));
}

Result<Value> Join(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("join", args);
  const std::string separator = Str(reader.Optional("d", Value::String("")));
  const Getter attribute = AttributeGetter(reader.Optional("attribute", Value()));
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const Values items, Iterate(runtime, subject));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    MINIMO_ASSIGN(const Value item, attribute(runtime, items[i]));
    MINIMO_TRY(runtime.Charge(item.GetExtent().weight + static_cast<int64_t>(separator.size() / 32)));
    out += Str(item);
    if (out.size() > Runtime::kMaxTextBytes) return runtime.ChargeText(out.size()).error();
  }
  return Value::String(std::move(out));
}

Result<Value> Map(Runtime& runtime, const Value& subject, Args& args) {
  Getter function;
  if (args.positional.empty() &&
      std::any_of(args.keyword.begin(), args.keyword.end(), [](const auto& k) { return k.first == "attribute"; })) {
    ArgReader reader("map", args);
    const Value attribute = reader.Required("attribute");
    function = AttributeGetter(attribute, false, reader.Optional("default", Value()));
    if (!args.keyword.empty()) return Errorf("Unexpected keyword argument '{}'", args.keyword[0].first);
  } else {
    if (args.positional.empty()) return Errorf("map requires a filter argument");
    const std::string name = Str(args.positional[0]);
    args.positional.erase(args.positional.begin());
    function = [&args, name](Runtime& rt, const Value& item) { return CallFilter(rt, name, item, args); };
  }
  MINIMO_ASSIGN(const Values items, Iterate(runtime, subject));
  Values out;
  for (const Value& item : items) {
    MINIMO_TRY(runtime.Charge());
    MINIMO_ASSIGN(Value value, function(runtime, item));
    out.push_back(std::move(value));
  }
  return Generator(std::move(out));
}

Result<Value> SelectOrReject(Runtime& runtime, const Value& subject, Args& args, bool keep, bool by_attribute) {
  Getter transform = AttributeGetter(Value());
  if (by_attribute) {
    if (args.positional.empty()) return Errorf("Missing parameter for attribute name");
    transform = AttributeGetter(args.positional[0]);
    args.positional.erase(args.positional.begin());
  }
  std::string test;
  if (!args.positional.empty()) {
    test = Str(args.positional[0]);
    args.positional.erase(args.positional.begin());
  }
  MINIMO_ASSIGN(const Values items, Iterate(runtime, subject));
  Values out;
  for (const Value& item : items) {
    MINIMO_TRY(runtime.Charge());
    MINIMO_ASSIGN(const Value value, transform(runtime, item));
    bool holds = value.Truthy();
    if (!test.empty()) {
      MINIMO_ASSIGN(holds, CallTest(runtime, test, value, args));
    }
    if (holds == keep) out.push_back(item);
  }
  return Generator(std::move(out));
}

template <bool kKeep, bool kByAttribute>
Result<Value> Select(Runtime& runtime, const Value& subject, Args& args) {
  return SelectOrReject(runtime, subject, args, kKeep, kByAttribute);
}

Result<Value> Sort(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("sort", args);
  const bool reverse = reader.Optional("reverse", Value::Bool(false)).Truthy();
  const bool case_sensitive = reader.Optional("case_sensitive", Value::Bool(false)).Truthy();
  const Value attribute = reader.Optional("attribute", Value());
  MINIMO_TRY(reader.Done());
  // "a,b" sorts by a, then by b: the key is the list of both.
  std::vector<Getter> getters;
  if (attribute.IsString()) {
    std::string_view rest = attribute.AsString();
    for (size_t comma = 0; comma != rest.npos; rest.remove_prefix(comma == rest.npos ? 0 : comma + 1)) {
      comma = rest.find(',');
      getters.push_back(AttributeGetter(Value::String(std::string(rest.substr(0, comma))), !case_sensitive));
    }
  } else {
    getters.push_back(AttributeGetter(attribute, !case_sensitive));
  }
  const Getter key = [&getters](Runtime& rt, const Value& item) -> Result<Value> {
    Values keys;
    for (const Getter& getter : getters) {
      MINIMO_ASSIGN(Value value, getter(rt, item));
      keys.push_back(std::move(value));
    }
    return MakeList(std::move(keys));
  };
  MINIMO_ASSIGN(Values items, Iterate(runtime, subject));
  MINIMO_ASSIGN(auto keyed, WithKeys(runtime, std::move(items), key));
  MINIMO_TRY(SortByKeys(runtime, keyed, reverse));
  Values out;
  for (auto& [unused, item] : keyed) out.push_back(std::move(item));
  return MakeList(std::move(out));
}

Result<Value> DictSort(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("dictsort", args);
  const bool case_sensitive = reader.Optional("case_sensitive", Value::Bool(false)).Truthy();
  const std::string by = Str(reader.Optional("by", Value::String("key")));
  const bool reverse = reader.Optional("reverse", Value::Bool(false)).Truthy();
  MINIMO_TRY(reader.Done());
  if (by != "key" && by != "value") return Errorf("You can only sort by either \"key\" or \"value\"");
  if (subject.IsUndefined()) return Error{subject.UndefinedMessage()};
  if (!subject.IsDict()) return Errorf("'{}' object has no attribute 'items'", TypeName(subject));
  const Getter fold = AttributeGetter(Value(), !case_sensitive);
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : subject.AsDict().items) {
    MINIMO_ASSIGN(Value sort_key, fold(runtime, by == "key" ? key : value));
    MINIMO_ASSIGN(Value pair, MakeList({key, value}, List::Kind::kTuple));
    keyed.emplace_back(std::move(sort_key), std::move(pair));
  }
  MINIMO_TRY(SortByKeys(runtime, keyed, reverse));
  Values out;
  for (auto& [unused, item] : keyed) out.push_back(std::move(item));
  return MakeList(std::move(out));
}

Result<Value> Unique(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("unique", args);
  const bool case_sensitive = reader.Optional("case_sensitive", Value::Bool(false)).Truthy();
  const Getter key = AttributeGetter(reader.Optional("attribute", Value()), !case_sensitive);
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const Values items, Iterate(runtime, subject));
  Dict seen;
  Values out;
  for (const Value& item : items) {
    MINIMO_ASSIGN(Value k, key(runtime, item));
    if (!Hashable(k)) return Errorf("unhashable type: '{}'", TypeName(k));
    MINIMO_TRY(runtime.Charge(k.IsString() ? 1 : 1 + static_cast<int64_t>(seen.items.size())));
    if (seen.Find(k) != nullptr) continue;
    seen.Set(std::move(k), Value());
    out.push_back(item);
  }
  return Generator(std::move(out));
}

Result<Value> GroupBy(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("groupby", args);
  const Value attribute = reader.Required("attribute");
  const Value otherwise = reader.Optional("default", Value());
  const bool case_sensitive = reader.Optional("case_sensitive", Value::Bool(false)).Truthy();
  MINIMO_TRY(reader.Done());
  const Getter shown = AttributeGetter(attribute, false, otherwise);
  MINIMO_ASSIGN(Values items, Iterate(runtime, subject));
  MINIMO_ASSIGN(auto keyed,
                WithKeys(runtime, std::move(items), AttributeGetter(attribute, !case_sensitive, otherwise)));
  MINIMO_TRY(SortByKeys(runtime, keyed, false));
  Values groups;
  for (size_t begin = 0; begin < keyed.size();) {
    Values members;
    size_t end = begin;
    for (; end < keyed.size() && Equal(keyed[end].first, keyed[begin].first); ++end)
      members.push_back(keyed[end].second);
    MINIMO_ASSIGN(Value name, shown(runtime, members[0]));
    MINIMO_ASSIGN(Value list, MakeList(std::move(members)));
    auto group = std::make_shared<List>();
    group->kind = List::Kind::kTuple;
    group->group = true;
    group->extent = {list.GetExtent().nesting + 1, list.GetExtent().weight + name.GetExtent().weight + 1};
    group->items = {std::move(name), std::move(list)};
    groups.push_back(Value::Of(std::shared_ptr<const List>(std::move(group))));
    begin = std::max(end, begin + 1);
  }
  return MakeList(std::move(groups));
}

Result<Value> Sum(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("sum", args);
  const Getter attribute = AttributeGetter(reader.Optional("attribute", Value()));
  Value total = reader.Optional("start", Value::Int(0));
  MINIMO_TRY(reader.Done());
  if (total.IsString()) return Errorf("sum() can't sum strings [use ''.join(seq) instead]");
  MINIMO_ASSIGN(const Values items, Iterate(runtime, subject));
  for (const Value& item : items) {
    MINIMO_ASSIGN(const Value value, attribute(runtime, item));
    MINIMO_ASSIGN(total, BinaryOperation(runtime, BinaryOp::kAdd, total, value));
  }
  return total;
}

template <bool kLargest>
Result<Value> Extreme(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader(kLargest ? "max" : "min", args);
  const bool case_sensitive = reader.Optional("case_sensitive", Value::Bool(false)).Truthy();
  const Getter key = AttributeGetter(reader.Optional("attribute", Value()), !case_sensitive);
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(Values items, Iterate(runtime, subject));
  if (items.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  MINIMO_ASSIGN(const auto keyed, WithKeys(runtime, std::move(items), key));
  size_t best = 0;
  for (size_t i = 1; i < keyed.size(); ++i) {
    MINIMO_ASSIGN(const int order, Compare(keyed[i].first, keyed[best].first, kLargest ? ">" : "<"));
    if (order == (kLargest ? 1 : -1)) best = i;
  }
  return keyed[best].second;
}

Result<Value> Reverse(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("reverse", args).Done());
  if (subject.IsString()) return GetSlice(runtime, subject, Value(), Value(), Value::Int(-1));
  if (!IsIterable(subject)) return Errorf("argument must be iterable");
  MINIMO_ASSIGN(Values items, Iterate(runtime, subject));
  std::reverse(items.begin(), items.end());
  return Generator(std::move(items));
}

Result<Value> Batch(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("batch", args);
  const Value count_value = reader.Required("linecount");
  const Value fill = reader.Optional("fill_with", Value());
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const int64_t count, ToIndex(count_value));
  MINIMO_ASSIGN(const Values items, Iterate(runtime, subject));
  Values batches;
  Values batch;
  const auto flush = [&]() -> Status {
    MINIMO_ASSIGN(Value list, MakeList(std::exchange(batch, {})));
    batches.push_back(std::move(list));
    return {};
  };
  for (const Value& item : items) {
    if (static_cast<int64_t>(batch.size()) == count) MINIMO_TRY(flush());
    batch.push_back(item);
  }
  if (!batch.empty()) {
    const int64_t missing = count - static_cast<int64_t>(batch.size());
    if (!fill.IsNone() && missing > 0) {
      MINIMO_TRY(runtime.ChargeItems(static_cast<uint64_t>(missing)));
      batch.insert(batch.end(), static_cast<size_t>(missing), fill);
    }
    MINIMO_TRY(flush());
  }
  return Generator(std::move(batches));
}

Result<Value> SliceFilter(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("slice", args);
  const Value slices_value = reader.Required("slices");
  const Value fill = reader.Optional("fill_with", Value());
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const int64_t slices, ToIndex(slices_value));
  MINIMO_ASSIGN(const Values items, Iterate(runtime, subject));
  if (slices == 0) return Errorf("integer division or modulo by zero");
  if (slices < 0) return Generator({});
  MINIMO_TRY(runtime.ChargeItems(static_cast<uint64_t>(slices)));
  const size_t each = items.size() / static_cast<size_t>(slices);
  const size_t longer = items.size() % static_cast<size_t>(slices);
  Values out;
  auto next = items.begin();
  for (size_t i = 0; i < static_cast<size_t>(slices); ++i) {
    const auto end = next + static_cast<std::ptrdiff_t>(each + (i < longer));
    Values part(next, end);
    if (!fill.IsNone() && i >= longer) part.push_back(fill);
    MINIMO_ASSIGN(Value list, MakeList(std::move(part)));
    out.push_back(std::move(list));
    next = end;
  }
  return Generator(std::move(out));
}

Result<Value> Items(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("items", args).Done());
  Values out;
  if (subject.IsUndefined()) return Generator({});
  if (!subject.IsDict()) return Errorf("Can only get item pairs from a mapping.");
  MINIMO_TRY(runtime.ChargeItems(subject.AsDict().items.size()));
  for (const auto& [key, value] : subject.AsDict().items) {
    MINIMO_ASSIGN(Value pair, MakeList({key, value}, List::Kind::kTuple));
    out.push_back(std::move(pair));
  }
  return Generator(std::move(out));
}

}  // namespace

Function FindSequenceFilter(std::string_view name) {
  static constexpr std::pair<std::string_view, Function> kFilters[] = {
      {"first", First},
      {"last", Last},
      {"length", LengthFilter},
      {"count", LengthFilter},
      {"list", ToList},
      {"join", Join},
      {"map", Map},
      {"select", Select<true, false>},
      {"reject", Select<false, false>},
      {"selectattr", Select<true, true>},
      {"rejectattr", Select<false, true>},
      {"sort", Sort},
      {"dictsort", DictSort},
      {"unique", Unique},
      {"groupby", GroupBy},
      {"sum", Sum},
      {"min", Extreme<false>},
      {"max", Extreme<true>},
      {"reverse", Reverse},
      {"batch", Batch},
      {"slice", SliceFilter},
      {"items", Items},
  };
  for (const auto& [known, filter] : kFilters) {
    if (name == known) return filter;
  }
  return nullptr;
}

}  // namespace minimo::jinja
