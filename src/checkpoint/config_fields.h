// Reads config.json attribute by attribute and reports at the end, in one message, all that are missing or absurd.
// Keys that no one asked for are warned of: a key that is read by nobody may change results (PITFALLS 12).
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "minimo/result.h"

namespace minimo {

class ConfigFields {
 public:
  // `where` names the file in messages. Fails if the text is not a JSON object.
  static Result<ConfigFields> Parse(const std::string& text, const std::string& where);
  ~ConfigFields();
  ConfigFields(ConfigFields&&) noexcept;

  // Required: a fault is recorded if the key is absent, null, of another type or out of [low, high].
  int64_t Int(const std::string& key, int64_t low, int64_t high);
  double Number(const std::string& key, double low, double high);
  std::vector<int64_t> IntList(const std::string& key, size_t size, int64_t low, int64_t high);
  std::string String(const std::string& key);

  // Optional: absent or null gives the default; a wrong type or range is a fault.
  int64_t IntOr(const std::string& key, int64_t fallback, int64_t low, int64_t high);
  double NumberOr(const std::string& key, double fallback, double low, double high);
  bool BoolOr(const std::string& key, bool fallback);
  std::string StringOr(const std::string& key, const std::string& fallback);
  std::vector<int64_t> IntOrListOr(const std::string& key, std::vector<int64_t> fallback);  // a number or a list
  std::vector<std::string> StringListOr(const std::string& key);

  bool Has(const std::string& key) const;  // present and not null
  // The object under `key` as fields of its own (faults named "key.inner"); nothing if it is absent or null.
  std::unique_ptr<ConfigFields> Object(const std::string& key);
  void Merge(const ConfigFields& object);  // takes over an inner object's faults and unread keys

  // A fault unless the key is absent, null or has this value: what the engine does not implement otherwise.
  void Only(const std::string& key, std::string_view value_json);
  // Known and without effect on results.
  void Ignore(std::initializer_list<std::string_view> keys);
  void IgnoreAll();  // the rest is someone else's to read
  void Fault(std::string message);

  // All faults in one line, or nothing; logs a warning for keys that were neither read nor ignored.
  Status Finish();

 private:
  struct Json;
  ConfigFields();
  const Json* Find(const std::string& key, bool required);
  std::string Name(const std::string& key) const { return prefix_ + key; }

  std::unique_ptr<Json> json_;
  std::string where_;
  std::string prefix_;
  std::set<std::string, std::less<>> read_;
  std::vector<std::string> missing_;
  std::vector<std::string> faults_;
  std::vector<std::string> unread_;  // of merged objects
};

}  // namespace minimo
