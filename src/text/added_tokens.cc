#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode_pins.h"
#include "text/utf8.h"

namespace minimo {
namespace {

// Where the last character of `text` begins; `text` is not empty.
size_t LastCharacter(std::string_view text) {
  size_t i = text.size() - 1;
  while (i > 0 && (static_cast<uint8_t>(text[i]) & 0xC0) == 0x80) --i;
  return i;
}

bool EndsWithWord(std::string_view text) {
  uint32_t size = 0;
  return !text.empty() && IsWord(DecodeUtf8(text.substr(LastCharacter(text)), &size));
}

bool StartsWithWord(std::string_view text) {
  uint32_t size = 0;
  return !text.empty() && IsWord(DecodeUtf8(text, &size));
}

// Where the white space at the end of `text` begins.
size_t TrailingSpace(std::string_view text) {
  uint32_t size = 0;
  while (!text.empty()) {
    const size_t last = LastCharacter(text);
    if (!IsWhiteSpace(DecodeUtf8(text.substr(last), &size))) break;
    text = text.substr(0, last);
  }
  return text.size();
}

// How many bytes of white space `text` begins with.
size_t LeadingSpace(std::string_view text) {
  size_t i = 0;
  uint32_t size = 0;
  while (i < text.size() && IsWhiteSpace(DecodeUtf8(text.substr(i), &size))) i += size;
  return i;
}

}  // namespace

void AddedTokenMatcher::Add(const AddedToken& token, std::string content, int32_t id) {
  if (content.empty()) return;
  first_bytes_[static_cast<uint8_t>(content[0])] = true;
  entries_.push_back({std::move(content), id, token.single_word, token.lstrip, token.rstrip, token.special});
}

void AddedTokenMatcher::Finish() {
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.content < b.content; });
}

// Narrows the range of entries that begin as the text does, one byte at a time. The one that ends there, if any, is the
// first of the range.
const AddedTokenMatcher::Entry* AddedTokenMatcher::LongestAt(std::string_view text) const {
  auto begin = entries_.begin();
  auto end = entries_.end();
  const Entry* longest = nullptr;
  for (size_t depth = 0; depth < text.size() && begin != end; ++depth) {
    const auto byte = [depth](const Entry& entry) { return static_cast<uint8_t>(entry.content[depth]); };
    const uint8_t wanted = static_cast<uint8_t>(text[depth]);
    begin = std::partition_point(begin, end, [&](const Entry& entry) { return byte(entry) < wanted; });
    end = std::partition_point(begin, end, [&](const Entry& entry) { return byte(entry) == wanted; });
    while (begin != end && begin->content.size() == depth + 1) longest = &*begin++;
  }
  return longest;
}

void AddedTokenMatcher::Split(std::string_view text, bool parse_special, const OnText& on_text,
                              const OnToken& on_token) const {
  size_t done = 0;
  size_t spaced = 0;  // what lies between the end of the last rstrip token and here is white space
  for (size_t i = 0; i < text.size();) {
    const Entry* entry = first_bytes_[static_cast<uint8_t>(text[i])] ? LongestAt(text.substr(i)) : nullptr;
    if (entry == nullptr) {
      ++i;
      continue;
    }
    size_t begin = i;
    size_t end = i + entry->content.size();
    i = end;  // the search goes on after the token's own text, whatever becomes of it
    if (entry->special && !parse_special) continue;
    if (entry->single_word && (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) continue;
    if (entry->lstrip) begin = begin <= done ? done : done + TrailingSpace(text.substr(done, begin - done));
    if (entry->rstrip) {
      if (end >= spaced) spaced = end + LeadingSpace(text.substr(end));
      end = spaced;
    }
    if (done < begin) on_text(text.substr(done, begin - done));
    if (begin < end) on_token(entry->id);  // the token before may have taken it all along, as white space
    done = end;
  }
  if (done < text.size()) on_text(text.substr(done));
}

}  // namespace minimo
