// The values of the template language: those of Python that a chat template can meet. Lists and dicts never change
// once made (the sandbox that the templates are written for refuses it), so they are shared freely; only a Namespace
// changes. Strings are valid UTF-8, indexed by code point. One thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "minimo/result.h"

namespace minimo::jinja {

class Value;
class Runtime;
struct List;
struct Dict;
struct Object;

using Values = std::vector<Value>;

// The arguments of a call: f(1, 2, key=3).
struct Args {
  Values positional;
  std::vector<std::pair<std::string, Value>> keyword;
};

// How deep a value nests and how much a walk over all of it visits (shared parts counted each time). Beyond these
// limits a value cannot be made, so no walk over one can exhaust the stack or run away.
struct Extent {
  int nesting = 0;     // 0 for scalars
  int64_t weight = 1;  // nodes, and 32 bytes of text are a node
};
inline constexpr int kMaxNesting = 200;
inline constexpr int64_t kMaxWeight = 4'000'000;

class Value {
 public:
  enum class Kind { kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kDict, kObject };

  Value() : state_(std::in_place_index<1>) {}   // None
  static Value Undefined(std::string message);  // the message of the error that using it raises
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  static Value String(std::string text, bool markup = false);  // markup: already safe HTML
  static Value Of(std::shared_ptr<const List> list);
  static Value Of(std::shared_ptr<const Dict> dict);
  static Value Of(std::shared_ptr<Object> object);

  Kind kind() const { return static_cast<Kind>(state_.index()); }
  bool IsUndefined() const { return kind() == Kind::kUndefined; }
  bool IsNone() const { return kind() == Kind::kNone; }
  bool IsBool() const { return kind() == Kind::kBool; }
  bool IsInt() const { return kind() == Kind::kInt; }
  bool IsFloat() const { return kind() == Kind::kFloat; }
  bool IsString() const { return kind() == Kind::kString; }
  bool IsList() const { return kind() == Kind::kList; }
  bool IsDict() const { return kind() == Kind::kDict; }
  bool IsObject() const { return kind() == Kind::kObject; }
  bool IsMarkup() const { return IsString() && std::get<5>(state_).markup; }
  bool IsIntegral() const { return IsInt() || IsBool(); }  // what Python's int() covers
  bool IsNumber() const { return IsIntegral() || IsFloat(); }

  // Each requires the matching kind; AsInt and AsDouble take every number.
  const std::string& UndefinedMessage() const { return *std::get<0>(state_).message; }
  int64_t AsInt() const { return IsBool() ? std::get<2>(state_) : std::get<3>(state_); }
  double AsDouble() const { return IsFloat() ? std::get<4>(state_) : static_cast<double>(AsInt()); }
  const std::string& AsString() const { return *std::get<5>(state_).text; }
  const List& AsList() const { return *std::get<6>(state_); }
  const Dict& AsDict() const { return *std::get<7>(state_); }
  Object& AsObject() const { return *std::get<8>(state_); }
  const std::shared_ptr<Object>& ObjectPointer() const { return std::get<8>(state_); }

  bool Truthy() const;
  Extent GetExtent() const;
  bool Is(const Value& other) const;  // Python's `is`

 private:
  struct UndefinedState {
    std::shared_ptr<const std::string> message;
  };
  struct Text {
    std::shared_ptr<const std::string> text;
    bool markup;
  };
  std::variant<UndefinedState, std::monostate, bool, int64_t, double, Text, std::shared_ptr<const List>,
               std::shared_ptr<const Dict>, std::shared_ptr<Object>>
      state_;
};

// Every ordered thing: the kind tells how Python would name, print and index it.
struct List {
  enum class Kind { kList, kTuple, kRange, kKeys, kValues, kItems, kGenerator };
  Kind kind = Kind::kList;
  Values items;
  Extent extent = {1, 1};
  std::array<int64_t, 3> range = {0, 0, 1};  // start, stop, step; of a range
  bool group = false;                        // a tuple of groupby: also has .grouper and .list
  mutable size_t next = 0;                   // a generator's items before this are consumed
  bool Indexable() const { return kind == Kind::kList || kind == Kind::kTuple || kind == Kind::kRange; }
};

// Keeps the order of insertion. Keys are hashable values, in templates nearly always strings.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  Extent extent = {1, 1};
  const Value* Find(std::string_view key) const;
  const Value* Find(const Value& key) const;
  void Set(Value key, Value value);  // while building
 private:
  std::unordered_map<std::string_view, size_t> by_text_;  // views into the shared strings of `items`
};

// Functions, macros, namespaces, loop variables: things with identity and attributes.
struct Object : std::enable_shared_from_this<Object> {
  virtual ~Object() = default;
  virtual const char* TypeName() const = 0;  // "jinja2.utils.Namespace object"; for messages
  virtual std::string Repr() const = 0;
  virtual bool Callable() const { return false; }
  virtual bool Iterable() const { return false; }  // only a loop variable is; it is not iterated here
  // None: there is no such attribute.
  virtual Result<std::optional<Value>> GetAttr(Runtime&, std::string_view) { return std::optional<Value>(); }
  virtual Result<Value> Call(Runtime& runtime, Args args);
  Extent extent;
};

// Both fail when the extent grows beyond the limits.
Result<Value> MakeList(Values items, List::Kind kind = List::Kind::kList);
Result<Value> MakeDict(Dict dict);

std::string TypeName(const Value& value);        // "str", "int", "NoneType": type(x).__name__
std::string ObjectTypeRepr(const Value& value);  // "dict object", "None": as Jinja's messages name it
bool Hashable(const Value& value);
bool Equal(const Value& a, const Value& b);
// Three-way order of a and b under Python's rules; `op` is for the message when they have none.
Result<int> Compare(const Value& a, const Value& b, const char* op);

}  // namespace minimo::jinja
