#include "server/auth.h"

#include <cstdlib>
#include <fstream>

#include "base/error.h"
#include "server/http_types.h"

namespace minimo::server {
namespace {

bool ConstantTimeEqual(std::string_view known, std::string_view given) {
  unsigned difference = known.size() == given.size() ? 0 : 1;
  for (size_t i = 0; i < known.size(); ++i) {
    const char c = given.empty() ? '\0' : given[i % given.size()];
    difference |= static_cast<unsigned char>(known[i]) ^ static_cast<unsigned char>(c);
  }
  return difference == 0;
}

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

}  // namespace

bool Auth::Allows(const HttpRequest& request) const {
  if (keys_.empty()) return true;
  std::string_view given = request.Header("x-api-key");
  const std::string_view authorization = request.Header("authorization");
  if (authorization.size() > 7 && (authorization[0] | 0x20) == 'b' && authorization.substr(1, 6) == "earer ") {
    given = Trimmed(authorization.substr(7));
  }
  if (given.empty()) return false;
  bool allowed = false;
  for (const std::string& key : keys_) allowed |= ConstantTimeEqual(key, given);
  return allowed;
}

Result<std::vector<std::string>> CollectApiKeys(std::vector<std::string> from_flags, const std::string& file) {
  std::vector<std::string> keys = std::move(from_flags);
  for (const std::string& key : keys) {
    if (Trimmed(key).empty()) return Errorf("--api-key is empty; give a key or leave the flag out");
  }
  if (!file.empty()) {
    std::ifstream in(file);
    if (!in) return Errorf("--api-key-file {}: cannot be read; give a text file with one key a line", file);
    const size_t before = keys.size();
    for (std::string line; std::getline(in, line);) {
      const std::string_view key = Trimmed(line);
      if (!key.empty() && key[0] != '#') keys.emplace_back(key);
    }
    if (keys.size() == before) return Errorf("--api-key-file {}: found no key, expected one a line", file);
  }
  if (const char* key = std::getenv("MINIMO_API_KEY"); key != nullptr && *key != '\0') keys.emplace_back(key);
  return keys;
}

}  // namespace minimo::server
