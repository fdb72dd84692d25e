-- A database as Supabase hands it out, as far as our work meets it. Run by the superuser (supabase_admin there), in the
-- database `postgres`; the role that we get is `postgres`, which is no superuser and does not own the database.

CREATE ROLE supabase_admin SUPERUSER;
CREATE ROLE postgres LOGIN PASSWORD 'secret' CREATEROLE CREATEDB BYPASSRLS;
CREATE ROLE anon NOINHERIT;
CREATE ROLE authenticated NOINHERIT;
CREATE ROLE service_role NOINHERIT BYPASSRLS;
CREATE ROLE authenticator NOINHERIT LOGIN PASSWORD 'secret';
CREATE ROLE supabase_auth_admin NOINHERIT;
CREATE ROLE supabase_storage_admin NOINHERIT;
GRANT anon, authenticated, service_role TO authenticator, postgres;

ALTER DATABASE postgres OWNER TO supabase_admin;
GRANT ALL ON DATABASE postgres TO postgres;
ALTER DATABASE postgres SET statement_timeout = '2min';
ALTER ROLE anon SET statement_timeout = '3s';
ALTER ROLE authenticator SET statement_timeout = '8s';
ALTER ROLE postgres SET search_path = "$user", public, extensions;

CREATE SCHEMA extensions AUTHORIZATION supabase_admin;
GRANT USAGE ON SCHEMA extensions TO postgres, anon, authenticated, service_role;
SET ROLE supabase_admin;
CREATE EXTENSION vector SCHEMA extensions;

GRANT ALL ON SCHEMA public TO postgres;
GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
    GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
    GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
    GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;

CREATE SCHEMA auth AUTHORIZATION supabase_auth_admin;
CREATE SCHEMA storage AUTHORIZATION supabase_storage_admin;
CREATE TABLE auth.users (id uuid PRIMARY KEY, email text);
INSERT INTO auth.users VALUES ('00000000-0000-0000-0000-000000000001', 'somebody@example.org');
ALTER TABLE auth.users OWNER TO supabase_auth_admin;
CREATE TABLE storage.objects (id uuid PRIMARY KEY, name text);
ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY;
ALTER TABLE storage.objects OWNER TO supabase_storage_admin;
CREATE PUBLICATION supabase_realtime;

-- The Data API hears of every change of the schema.
CREATE FUNCTION extensions.pgrst_ddl_watch() RETURNS event_trigger LANGUAGE plpgsql AS
$function$ BEGIN NOTIFY pgrst, 'reload schema'; END $function$;
CREATE EVENT TRIGGER pgrst_ddl_watch ON ddl_command_end EXECUTE FUNCTION extensions.pgrst_ddl_watch();
RESET ROLE;
