package contract_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// migrate makes the database that a new server of dstack makes before anything
// else. It holds tables and no user.
const migrate = `
import asyncio
from dstack._internal.server.db import get_db, migrate

async def main():
    await migrate()
    await get_db().engine.dispose()

asyncio.run(main())
`

var migrating sync.Mutex

// migratedDatabase is the SQLite file of a server without users, of the release in
// venv. The migrations are half of what a server costs at its start, so they run
// once for all servers of a release; the file stays beside the release and goes
// with it.
func migratedDatabase(ctx context.Context, venv string) (string, error) {
	migrating.Lock()
	defer migrating.Unlock()
	kept := filepath.Join(venv, "migrated.sqlite")
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
		return kept, err
	}
	dir, err := os.MkdirTemp(venv, "migrating-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	made := filepath.Join(dir, "sqlite.db")
	cmd := exec.CommandContext(ctx, filepath.Join(venv, "bin", "python"), "-c", migrate)
	cmd.Env = []string{
		"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=" + dir,
		"DSTACK_DATABASE_URL=sqlite+aiosqlite:///" + made,
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("migrate a new database in %s: %w: %s", venv, err, out)
	}
	// Another process may have made the same one meanwhile.
	return kept, os.Rename(made, kept)
}

// layOutDatabase puts a copy of the migrated database where the server looks.
func (s *dstackServer) layOutDatabase(ctx context.Context) error {
	from, err := migratedDatabase(ctx, s.venv)
	if err != nil {
		return err
	}
	to := filepath.Join(s.serverDir(), "data", "sqlite.db")
	if _, err := os.Stat(to); err == nil {
		return nil // The server ran before.
	}
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), copyFile(from, to))
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
