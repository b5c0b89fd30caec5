package dag

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestImportSecrets(t *testing.T) {
	key := "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"
	cert := "-----BEGIN CERTIFICATE-----\nAAAA\n"
	tests := []struct {
		path, content string
		secret        bool
	}{
		{".env", "", true}, {".ENV", "", true}, {".env.production", "", true}, {".env.example", "", false}, {".env.sample", "", false},
		{"env", "", false}, {".envrc", "", false}, {"x.env", "", false},
		{"id_rsa", "", true}, {"keys/id_ed25519", "", true}, {"id_ecdsa_sk", "", true}, {"id_rsa.pub", "", false}, {"id_rsa.html", "", false},
		{"a.p12", "", true}, {"B.PFX", "", true},
		{".ssh/config", "", true}, {".gnupg/x", "", true}, {".git/HEAD", "", true}, {"s/.git/HEAD", "", true}, {".github/x", "", false}, {"git/HEAD", "", false},
		{".netrc", "", true}, {".htpasswd", "", true},
		{".aws/credentials", "", true}, {"aws/credentials", "", false}, {"credentials", "", false},
		{"tls.key", key, true}, {"tls.pem", cert, false}, {"both.pem", cert + key, true}, {"TLS.PEM", "-----BEGIN RSA PRIVATE KEY-----", true},
		{"piano.key", "c major", false}, {"empty.key", "", false}, {"pub.pem", "-----BEGIN PUBLIC KEY-----", false}, {"how-to.html", key, false},
		{"large.key", key + strings.Repeat("x", 3<<20), true},
		{".npmrc", "registry=x\n//x/:_authToken=1", true}, {".npmrc", "registry=x", false},
		{"s/.env", "-> ../other", false},
	}
	for _, tt := range tests {
		top := tree{tt.path: tt.content, "other": "1"}.write(t)
		m := newMemStore()
		_, err := Import(t.Context(), m, top, ImportOptions{Hidden: true})
		if errors.Is(err, ErrSecret) != tt.secret || err != nil && !tt.secret {
			t.Errorf("%s: got error %v", tt.path, err)
		}
		if tt.secret && !strings.Contains(err.Error(), top) || tt.secret && m.syncs > 0 {
			t.Errorf("%s: got error %v, %d syncs", tt.path, err, m.syncs)
		}
		if _, err := Import(t.Context(), m, top, ImportOptions{Hidden: true, AllowSecrets: true}); err != nil {
			t.Errorf("%s, allowed: %v", tt.path, err)
		}
		if strings.HasPrefix(filepath.Base(tt.path), ".") || strings.HasPrefix(tt.path, ".") {
			if _, err := Import(t.Context(), m, top, ImportOptions{}); err != nil {
				t.Errorf("%s, hidden: %v", tt.path, err)
			}
		}
		ignored := filepath.Join(top, IgnoreFile)
		if err := os.WriteFile(ignored, []byte("/"+tt.path), 0o644); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(tt.path, "/") {
			continue // the folder may be what is refused
		}
		if _, err := Import(t.Context(), m, top, ImportOptions{Hidden: true}); err != nil {
			t.Errorf("%s, ignored: %v", tt.path, err)
		}
	}
}

func TestImportSecretsNamed(t *testing.T) {
	tr := tree{"a/id_rsa": "", "b/c/store.p12": "", "page.html": "1"}
	top := tr.write(t)
	_, err := Import(t.Context(), discard{}, top, ImportOptions{})
	for _, want := range []string{`/a/id_rsa", "`, `/b/c/store.p12": looks secret`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	for i := range 2 * maxSecretsNamed {
		tr[strings.Repeat("x", i+1)+".p12"] = ""
	}
	_, err = Import(t.Context(), discard{}, tr.write(t), ImportOptions{})
	if err == nil || !strings.Contains(err.Error(), " and 12 more: looks secret") {
		t.Errorf("got error %v", err)
	}
	for _, path := range []string{"a/id_rsa", "b/c/store.p12"} {
		if _, err := Import(t.Context(), discard{}, filepath.Join(top, path), ImportOptions{}); !errors.Is(err, ErrSecret) {
			t.Errorf("%s alone: %v", path, err)
		}
	}
}

// An import that was told to take in secrets does not vouch for them in the next.
func TestImportSecretCached(t *testing.T) {
	needStamps(t)
	top := tree{"a.key": "-----BEGIN PRIVATE KEY-----"}.write(t)
	m := newMemStore()
	cache, _ := settled(t, m, tree{"a": "1"}.write(t), nil)
	if _, err := importAt(m, top, ImportOptions{Cache: cache}, later()); !errors.Is(err, ErrSecret) {
		t.Errorf("got error %v", err)
	}
	res, err := importAt(m, top, ImportOptions{AllowSecrets: true}, later())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := importAt(m, top, ImportOptions{Cache: res.Cache}, later()); !errors.Is(err, ErrSecret) {
		t.Errorf("with the cache of an import that allowed secrets: %v", err)
	}
}
