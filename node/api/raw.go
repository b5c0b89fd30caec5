package api

import (
	"encoding/json"
	"unicode/utf8"
)

// Raw is a path as a file system or a site has it: any bytes. In JSON, whose strings
// cannot hold them all, it is a string if it is UTF-8, and {"base64": "…"} if not.
type Raw string

type rawJSON struct {
	Base64 []byte `json:"base64"`
}

// MarshalJSON implements json.Marshaler.
func (r Raw) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(r)) {
		return json.Marshal(string(r))
	}
	return json.Marshal(rawJSON{[]byte(r)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *Raw) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '{' {
		return json.Unmarshal(data, (*string)(r))
	}
	var raw rawJSON
	err := json.Unmarshal(data, &raw)
	*r = Raw(raw.Base64)
	return err
}
