// API keys. No keys: everybody may enter.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "minimo/result.h"

namespace minimo::server {

struct HttpRequest;

class Auth {
 public:
  Auth() = default;
  explicit Auth(std::vector<std::string> keys) : keys_(std::move(keys)) {}

  bool required() const { return !keys_.empty(); }

  // True if the request brings a known key as `Authorization: Bearer KEY` or `x-api-key: KEY` (Anthropic's).
  // Compares every key in full, in time that depends on the lengths alone.
  bool Allows(const HttpRequest& request) const;

 private:
  std::vector<std::string> keys_;
};

// The keys of the flags, of a file (one a line; blank lines and # comments are skipped) and of the environment
// variable MINIMO_API_KEY (one key). `file` may be empty.
Result<std::vector<std::string>> CollectApiKeys(std::vector<std::string> from_flags, const std::string& file);

}  // namespace minimo::server
