#include "grammar/formats.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace minimo::grammar {
namespace {

// RFC 3339. Years from 1000, so that every library's parser takes them; 29 February in leap years alone.
const std::string kDate =
    "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    "02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)-02-29)";
const std::string kTime =
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
// RFC 3339 appendix A, ISO 8601 durations.
const std::string kDuration =
    "P(?:[0-9]{1,5}W|(?:[0-9]{1,5}Y(?:[0-9]{1,5}M(?:[0-9]{1,5}D)?)?|[0-9]{1,5}M(?:[0-9]{1,5}D)?|[0-9]{1,5}D)"
    "(?:T(?:[0-9]{1,5}H(?:[0-9]{1,5}M(?:[0-9]{1,5}S)?)?|[0-9]{1,5}M(?:[0-9]{1,5}S)?|[0-9]{1,5}S))?|"
    "T(?:[0-9]{1,5}H(?:[0-9]{1,5}M(?:[0-9]{1,5}S)?)?|[0-9]{1,5}M(?:[0-9]{1,5}S)?|[0-9]{1,5}S))";
const std::string kLabel = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?";
const std::string kHostname = kLabel + "(?:\\." + kLabel + "){0,6}";
const std::string kEmail =
    "[A-Za-z0-9_+-]{1,32}(?:\\.[A-Za-z0-9_+-]{1,32}){0,2}@" + kLabel + "(?:\\." + kLabel + "){1,3}";
const std::string kOctet = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
const std::string kIpv4 = kOctet + "(?:\\." + kOctet + "){3}";

// RFC 4291 without embedded IPv4: eight groups, or fewer around one "::".
std::string Ipv6() {
  const std::string group = "[0-9A-Fa-f]{1,4}";
  std::string out = group + "(?::" + group + "){7}";
  for (int before = 0; before <= 7; ++before) {
    const int after = 7 - before;  // at most: "::" stands for at least one group
    out += "|";
    if (before > 0) out += group + "(?::" + group + "){" + std::to_string(before - 1) + "}";
    out += "::";
    if (after > 0) out += "(?:" + group + "(?::" + group + "){0," + std::to_string(after - 1) + "})?";
  }
  return "(?:" + out + ")";
}

const std::string kPathChars = "(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*";
const std::string kUriTail = "(?:/" + kPathChars + ")?(?:\\?" + kPathChars + ")?(?:#" + kPathChars + ")?";
const std::string kUri = "[A-Za-z][A-Za-z0-9+.-]{0,15}://" + kHostname + "(?::[0-9]{1,4})?" + kUriTail;

// Formats of OpenAPI and of schema generators that bound nothing, or bound numbers as our digits do anyway.
constexpr std::array<std::string_view, 12> kAnnotations = {
    "password", "int32", "int64", "float", "double", "decimal", "binary", "byte", "path", "file-path", "directory-path",
    "textarea"};

}  // namespace

Result<std::string> PatternOfFormat(std::string_view format) {
  const auto anchored = [](const std::string& pattern) { return "^(?:" + pattern + ")$"; };
  if (format == "date") return anchored(kDate);
  if (format == "time") return anchored(kTime);
  if (format == "date-time") return anchored(kDate + "T" + kTime);
  if (format == "duration") return anchored(kDuration);
  if (format == "email") return anchored(kEmail);
  if (format == "hostname") return anchored(kHostname);
  if (format == "ipv4") return anchored(kIpv4);
  if (format == "ipv6") return anchored(Ipv6());
  if (format == "uuid") return anchored("[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}");
  if (format == "uri" || format == "url") return anchored(kUri);
  if (format == "uri-reference") return anchored(kUri + "|" + kUriTail);
  if (format == "json-pointer") return anchored("(?:/(?:[^~/]|~[01])*)*");
  if (std::find(kAnnotations.begin(), kAnnotations.end(), format) != kAnnotations.end()) return std::string();
  return Errorf("\"{}\" is not supported", format);
}

}  // namespace minimo::grammar
