"""validate.py WALKER MODEL_FOLDER SCHEMAS.json WALKS: random texts under every schema's token mask parse as JSON and
satisfy the schema by the jsonschema package. A schema with "error" must be refused with a message that holds it."""
import json
import os
import subprocess
import sys

try:
    import jsonschema
except ImportError:
    print("the Python package jsonschema is not installed: run ./test", file=sys.stderr)
    sys.exit(1 if os.environ.get("CI") else 77)


def main():
    walker, model, path, walks = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        schemas = json.load(file)
    output = subprocess.run([walker, model, path, walks], capture_output=True, check=True).stdout.decode()
    lines = output.split("\n")[:-1]
    texts, faults, refused = [0] * len(schemas), [], 0
    for line in lines:
        result = json.loads(line)
        index = result["schema"]
        case = schemas[index]
        schema = case["schema"]
        if "error" in result:
            if "error" in case and case["error"] in result["error"]:
                refused += 1
            else:
                faults.append((case, result["error"]))
            continue
        if "error" in case:
            faults.append((case, "was not refused"))
            continue
        texts[index] += 1
        try:
            value = json.loads(result["text"])
            validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
            validator(schema).validate(value)
        except (ValueError, jsonschema.ValidationError) as error:
            faults.append((case, f"{result['text']!r}: {str(error).splitlines()[0]}"))
    for case, fault in faults[:40]:
        print(f"{case.get('name', '')} {json.dumps(case['schema'])[:400]}\n    {fault[:400]}")
    valid = sum(texts)
    print(f"{sum(t > 0 for t in texts)} schemas, {valid} texts, {refused} refused as expected, {len(faults)} faults")
    return 1 if faults else 0


sys.exit(main())
