#include "grammar/utf8_bytes.h"

#include <fmt/format.h>

#include <algorithm>

namespace minimo::grammar {
namespace {

size_t EncodeUtf8(uint32_t c, uint8_t* out) {
  if (c < 0x80) {
    out[0] = static_cast<uint8_t>(c);
    return 1;
  }
  const size_t size = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (size_t i = size; i-- > 1; c >>= 6) out[i] = static_cast<uint8_t>(0x80 | (c & 0x3F));
  out[0] = static_cast<uint8_t>((0xF00 >> size) | c);
  return size;
}

// low and high have the same length and differ at most from byte `at` on.
void LinkSequences(Nfa* nfa, int32_t from, const uint8_t* low, const uint8_t* high, size_t size, int32_t to) {
  if (size == 1) {
    nfa->Link(from, CharSet{{low[0], high[0]}}, to);
    return;
  }
  if (low[0] == high[0]) {
    const int32_t next = nfa->Add();
    nfa->Link(from, low[0], next);
    LinkSequences(nfa, next, low + 1, high + 1, size - 1, to);
    return;
  }
  const uint8_t least[3] = {0x80, 0x80, 0x80}, most[3] = {0xBF, 0xBF, 0xBF};
  uint8_t first = low[0], last = high[0];
  if (!std::equal(low + 1, low + size, least)) {
    const int32_t next = nfa->Add();
    nfa->Link(from, low[0], next);
    LinkSequences(nfa, next, low + 1, most, size - 1, to);
    ++first;
  }
  if (!std::equal(high + 1, high + size, most)) {
    const int32_t next = nfa->Add();
    nfa->Link(from, high[0], next);
    LinkSequences(nfa, next, least, high + 1, size - 1, to);
    --last;
  }
  if (first > last) return;
  const int32_t next = nfa->Add();
  nfa->Link(from, CharSet{{first, last}}, next);
  LinkSequences(nfa, next, least, most, size - 1, to);
}

char ShortEscape(uint32_t c) {
  switch (c) {
    case '"': return '"';
    case '\\': return '\\';
    case '\b': return 'b';
    case '\f': return 'f';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    default: return 0;
  }
}

std::string EscapeOf(uint32_t c) {
  const char short_escape = ShortEscape(c);
  if (short_escape != 0) return {'\\', short_escape};
  return fmt::format("\\u{:04x}", c);
}

bool NeedsEscape(uint32_t c) { return c < 0x20 || c == '"' || c == '\\'; }

void LinkJson(Nfa* nfa, int32_t from, uint32_t low, uint32_t high, int32_t to) {
  for (uint32_t c = low; c <= std::min(high, uint32_t{'\\'}); ++c) {
    if (!NeedsEscape(c)) continue;
    if (c > low) LinkUtf8(nfa, from, low, c - 1, to);
    const std::string escape = EscapeOf(c);
    const int32_t last = nfa->AddBytes(from, std::string_view(escape).substr(0, escape.size() - 1));
    nfa->Link(last, static_cast<uint8_t>(escape.back()), to);
    low = c + 1;
  }
  if (low <= high) LinkUtf8(nfa, from, low, high, to);
}

using LinkRange = void (*)(Nfa*, int32_t, uint32_t, uint32_t, int32_t);

// Copies `dfa` into `nfa` from `start` on, its accepting states leading to `end`.
void Lower(const Dfa& dfa, LinkRange link, Nfa* nfa, int32_t start, int32_t end) {
  if (dfa.empty()) return;
  std::vector<int32_t> number(dfa.states.size());
  for (int32_t& n : number) n = nfa->Add();
  nfa->LinkEmpty(start, number[0]);
  for (size_t s = 0; s < dfa.states.size(); ++s) {
    for (const Edge& e : dfa.states[s].edges) link(nfa, number[s], e.low, e.high, number[static_cast<size_t>(e.to)]);
    if (dfa.states[s].accepting) nfa->LinkEmpty(number[s], end);
  }
}

Dfa MakeAnyStringBody() {
  Nfa nfa;
  const int32_t boundary = nfa.start = nfa.Add();
  const int32_t end = nfa.Add();
  nfa.states[static_cast<size_t>(end)].accepting = true;
  nfa.Link(boundary, '"', end);
  LinkUtf8(&nfa, boundary, 0x20, '"' - 1, boundary);
  LinkUtf8(&nfa, boundary, '"' + 1, '\\' - 1, boundary);
  LinkUtf8(&nfa, boundary, '\\' + 1, 0xD7FF, boundary);
  LinkUtf8(&nfa, boundary, 0xE000, kMaxCodePoint, boundary);
  const int32_t backslash = nfa.Add();
  nfa.Link(boundary, '\\', backslash);
  for (const char c : {'"', '\\', '/', 'b', 'f', 'n', 'r', 't'}) nfa.Link(backslash, static_cast<uint8_t>(c), boundary);
  const CharSet hex = {{'0', '9'}, {'A', 'F'}, {'a', 'f'}};
  const auto add_hex = [&](int32_t from, const std::vector<CharSet>& digits, int32_t to) {
    for (size_t i = 0; i < digits.size(); ++i) {
      const int32_t next = i + 1 < digits.size() ? nfa.Add() : to;
      nfa.Link(from, digits[i], next);
      from = next;
    }
  };
  const int32_t u = nfa.Add();
  nfa.Link(backslash, 'u', u);
  const CharSet not_d = {{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}}, d = {{'D', 'D'}, {'d', 'd'}};
  add_hex(u, {not_d, hex, hex, hex}, boundary);
  add_hex(u, {d, CharSet{{'0', '7'}}, hex, hex}, boundary);
  const int32_t low_backslash = nfa.Add(), low_u = nfa.Add();
  add_hex(u, {d, CharSet{{'8', '9'}, {'A', 'B'}, {'a', 'b'}}, hex, hex}, low_backslash);
  const int32_t escape = nfa.Add();
  nfa.Link(low_backslash, '\\', escape);
  nfa.Link(escape, 'u', low_u);
  add_hex(low_u, {d, CharSet{{'C', 'F'}, {'c', 'f'}}, hex, hex}, boundary);
  return std::move(Determinize(nfa)).value();  // a fixed, small automaton
}

}  // namespace

std::optional<std::vector<uint32_t>> DecodeUtf8(std::string_view text) {
  std::vector<uint32_t> out;
  for (size_t i = 0; i < text.size();) {
    const uint8_t first = static_cast<uint8_t>(text[i]);
    const size_t size = first < 0x80   ? 1
                        : first < 0xC2 ? 0
                        : first < 0xE0 ? 2
                        : first < 0xF0 ? 3
                        : first < 0xF5 ? 4
                                       : 0;
    if (size == 0 || i + size > text.size()) return std::nullopt;
    uint32_t c = size == 1 ? first : first & (0x7Fu >> size);
    for (size_t k = 1; k < size; ++k) {
      const uint8_t next = static_cast<uint8_t>(text[i + k]);
      if ((next & 0xC0) != 0x80) return std::nullopt;
      c = (c << 6) | (next & 0x3F);
    }
    uint8_t shortest[4];
    if (c > kMaxCodePoint || (c >= 0xD800 && c <= 0xDFFF) || EncodeUtf8(c, shortest) != size) return std::nullopt;
    out.push_back(c);
    i += size;
  }
  return out;
}

void LinkUtf8(Nfa* nfa, int32_t from, uint32_t low, uint32_t high, int32_t to) {
  for (const uint32_t last : {0x7Fu, 0x7FFu, 0xFFFFu, kMaxCodePoint}) {
    if (low > high || low > last) continue;
    const uint32_t top = std::min(high, last);
    uint8_t a[4], b[4];
    const size_t size = EncodeUtf8(low, a);
    EncodeUtf8(top, b);
    LinkSequences(nfa, from, a, b, size, to);
    low = top + 1;
  }
}

Result<Dfa> AsPlainBytes(const Dfa& dfa) {
  Nfa nfa;
  nfa.start = nfa.Add();
  const int32_t end = nfa.Add();
  Lower(dfa, LinkUtf8, &nfa, nfa.start, end);
  nfa.states[static_cast<size_t>(end)].accepting = true;
  return Determinize(nfa);
}

Result<Dfa> AsJsonString(const Dfa& dfa) {
  Nfa nfa;
  nfa.start = nfa.Add();
  const int32_t open = nfa.Add(), close = nfa.Add(), end = nfa.Add();
  nfa.Link(nfa.start, '"', open);
  Lower(dfa, LinkJson, &nfa, open, close);
  nfa.Link(close, '"', end);
  nfa.states[static_cast<size_t>(end)].accepting = true;
  return Determinize(nfa);
}

const Dfa& AnyStringBody() {
  static const Dfa body = MakeAnyStringBody();
  return body;
}

std::string QuoteJson(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (NeedsEscape(static_cast<uint8_t>(c))) {
      out += EscapeOf(static_cast<uint8_t>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace minimo::grammar
