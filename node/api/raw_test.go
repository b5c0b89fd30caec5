package api

import (
	"encoding/json"
	"testing"
)

func TestRaw(t *testing.T) {
	for text, want := range map[Raw]string{
		"":             `""`,
		"/srv/ü":       `"/srv/ü"`,
		"/\ufffd":      `"/�"`,
		"/srv/caf\xe9": `{"base64":"L3Nydi9jYWbp"}`,
	} {
		data, err := json.Marshal(text)
		if err != nil || string(data) != want {
			t.Errorf("%q: %s, %v", text, data, err)
		}
		var got Raw
		if err := json.Unmarshal(data, &got); err != nil || got != text {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
	for _, data := range []string{`1`, `[]`, `{"base64":"?"}`, `{"base64":1}`, `{"base64":"`} {
		if err := json.Unmarshal([]byte(data), new(Raw)); err == nil {
			t.Errorf("%s is accepted", data)
		}
	}
}

// FuzzRaw checks that any bytes come through JSON as they were.
func FuzzRaw(f *testing.F) {
	f.Add([]byte("/srv/caf\xe9"))
	f.Add([]byte(`{"base64":"L3Nydi9jYWbp"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		data, err := json.Marshal(Raw(b))
		if err != nil {
			t.Fatal(err)
		}
		var got Raw
		if err := json.Unmarshal(data, &got); err != nil || string(got) != string(b) {
			t.Fatalf("%q became %q, %v", b, got, err)
		}
		var other Raw
		if json.Unmarshal(b, &other) != nil {
			return
		}
		data, err = json.Marshal(other)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &got); err != nil || got != other {
			t.Fatalf("%q became %q, %v", other, got, err)
		}
	})
}
