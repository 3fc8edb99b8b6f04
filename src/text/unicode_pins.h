// Unicode as the Hugging Face library sees it. Its parts carry different versions: the regex engine (Oniguruma 6.9.10)
// Unicode 16, the normaliser (unicode-normalization-alignments 0.1) Unicode 9. PCRE2 10.42 carries Unicode 14 and
// utf8proc 2.8 Unicode 15, so a few thousand characters would be classed or composed otherwise. The tables here hold
// the differences; tools/tokenizer_reference.py derives them.
#pragma once

#include <string>
#include <string_view>

namespace minimo {

// `text` for PCRE2: every character that PCRE2 would put in another general category (or take for white space) is
// replaced by one of the right category and the same length in UTF-8, so that offsets stay. Returns `text` itself where
// there is none, else a view of `storage`. Requires valid UTF-8.
std::string_view PinnedForRegex(std::string_view text, std::string* storage);

// True for characters newer than the library's normaliser that utf8proc would reorder, decompose or compose: it leaves
// them as they are and treats them as starters. `compatibility`: for NFKC and NFKD.
bool IsUnknownToNormalizer(char32_t code_point, bool compatibility);

// Rust's char::is_numeric, regex crate's \w and \s.
bool IsNumeric(char32_t code_point);
bool IsWord(char32_t code_point);
bool IsWhiteSpace(char32_t code_point);

}  // namespace minimo
