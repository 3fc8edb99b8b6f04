// Errors as values. What a file, a flag, a peer or a request can cause is returned as a Result; what only a
// programmer can cause is a CHECK (base/check.h). libstdc++ 12 has no std::expected, so the shape is ours.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace minimo {

// One plain line: what was found, what was expected, what to do.
struct Error {
  std::string message;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Requires ok().
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // Requires !ok().
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

// A Result without a value.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

}  // namespace minimo

#define MINIMO_CONCAT_INNER(a, b) a##b
#define MINIMO_CONCAT(a, b) MINIMO_CONCAT_INNER(a, b)

// Returns the error of a Status or Result expression from the enclosing function.
#define MINIMO_TRY(expr)                          \
  do {                                            \
    auto minimo_try_status = (expr);              \
    if (!minimo_try_status.ok()) return ::minimo::Error(minimo_try_status.error()); \
  } while (false)

// MINIMO_ASSIGN(auto x, F()): binds the value or returns the error from the enclosing function.
#define MINIMO_ASSIGN(lhs, expr) MINIMO_ASSIGN_INNER(MINIMO_CONCAT(minimo_result_, __LINE__), lhs, expr)
#define MINIMO_ASSIGN_INNER(tmp, lhs, expr) \
  auto tmp = (expr);                        \
  if (!tmp.ok()) return ::minimo::Error(tmp.error()); \
  lhs = std::move(tmp).value()
