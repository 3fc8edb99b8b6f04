// Builds JSON text by appending: the streams write one small object a token, and every response has a fixed order of
// keys. Strings are escaped; bytes that are not UTF-8 become U+FFFD, so that the result is always valid JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace minimo::server {

// Appends `text` escaped, without quotes.
void AppendEscaped(std::string& out, std::string_view text);
std::string Quoted(std::string_view text);

class JsonWriter {
 public:
  // Begins again, keeping the room, after a text that ends in an open bracket.
  void Restart(std::string_view opened) {
    out_.assign(opened);
    comma_ = false;
  }

  JsonWriter& Object() { return Open('{'); }
  JsonWriter& EndObject() { return Close('}'); }
  JsonWriter& Array() { return Open('['); }
  JsonWriter& EndArray() { return Close(']'); }
  JsonWriter& Key(std::string_view key);

  JsonWriter& String(std::string_view value);
  JsonWriter& Int(int64_t value);
  JsonWriter& Number(double value);  // not finite: null
  JsonWriter& Float(float value);    // likewise; as few digits as tell it from its neighbours
  JsonWriter& Bool(bool value);
  JsonWriter& Null();
  JsonWriter& Raw(std::string_view json);  // a complete JSON value

  JsonWriter& Member(std::string_view key, std::string_view value) { return Key(key).String(value); }
  JsonWriter& Member(std::string_view key, const std::string& value) { return Key(key).String(value); }
  JsonWriter& Member(std::string_view key, const char* value) { return Key(key).String(value); }
  JsonWriter& Member(std::string_view key, int value) { return Key(key).Int(value); }
  JsonWriter& Member(std::string_view key, int64_t value) { return Key(key).Int(value); }
  JsonWriter& Member(std::string_view key, double value) { return Key(key).Number(value); }
  JsonWriter& Member(std::string_view key, bool value) { return Key(key).Bool(value); }

  // What follows the JSON.
  void EndText(std::string_view text) { out_ += text; }

  const std::string& str() const { return out_; }
  std::string Take() { return std::move(out_); }

 private:
  JsonWriter& Open(char bracket);
  JsonWriter& Close(char bracket);
  void Separate();

  std::string out_;
  bool comma_ = false;  // a value stands before, in this object or array
};

}  // namespace minimo::server
