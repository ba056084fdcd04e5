CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.artifacts (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    job_id character varying(26) NOT NULL,
    name character varying(255) NOT NULL,
    size bigint NOT NULL,
    sha256 character varying(64) NOT NULL,
    relative_path character varying(1024) NOT NULL,
    created_at timestamp with time zone NOT NULL,
    removed_at timestamp with time zone
);
CREATE SEQUENCE public.artifacts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.artifacts_id_seq OWNED BY public.artifacts.id;
CREATE TABLE public.audit (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    actor character varying(128) NOT NULL,
    action character varying(32) NOT NULL,
    kind character varying(32) NOT NULL,
    key character varying(255) NOT NULL,
    detail jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.audit_id_seq OWNED BY public.audit.id;
CREATE TABLE public.events (
    job_id character varying(26) NOT NULL,
    seq bigint NOT NULL,
    type character varying(64) NOT NULL,
    message text NOT NULL,
    data jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE public.job_items (
    id character varying(26) NOT NULL,
    job_id character varying(26) NOT NULL,
    stage character varying(32) NOT NULL,
    "position" integer NOT NULL,
    key character varying(128) NOT NULL,
    payload jsonb NOT NULL,
    state character varying(16) NOT NULL,
    attempt integer NOT NULL,
    failures integer NOT NULL,
    lost_leases integer NOT NULL,
    lease_owner character varying(128) NOT NULL,
    lease_expires_at timestamp with time zone NOT NULL,
    not_before timestamp with time zone NOT NULL,
    publications integer NOT NULL,
    publish_after timestamp with time zone NOT NULL,
    progress_done bigint NOT NULL,
    progress_total bigint NOT NULL,
    progress_unit character varying(32) NOT NULL,
    result jsonb,
    error jsonb,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone
);
CREATE TABLE public.jobs (
    id character varying(26) NOT NULL,
    team character varying(64) NOT NULL,
    kind character varying(32) NOT NULL,
    state character varying(16) NOT NULL,
    stage character varying(32),
    model character varying(512) NOT NULL,
    request jsonb NOT NULL,
    request_sha256 character varying(64) NOT NULL,
    idempotency_key character varying(255),
    created_by character varying(128) NOT NULL,
    inline boolean NOT NULL,
    inline_lease_expires_at timestamp with time zone NOT NULL,
    weights_sha256 character varying(64),
    profile_key character varying(128),
    plan_digest character varying(128),
    queue_reason text,
    error jsonb,
    last_seq bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    retry_of character varying(26)
);
CREATE TABLE public.latency_tables (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    digest character varying(64) NOT NULL,
    device character varying(255) NOT NULL,
    document jsonb NOT NULL,
    created_by character varying(128) NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.latency_tables_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.latency_tables_id_seq OWNED BY public.latency_tables.id;
CREATE TABLE public.members (
    team character varying(64) NOT NULL,
    name character varying(64) NOT NULL,
    role character varying(16) NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE public.models (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    reference character varying(512) NOT NULL,
    weights_sha256 character varying(64) NOT NULL,
    document jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL,
    seen_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.models_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.models_id_seq OWNED BY public.models.id;
CREATE TABLE public.outbox (
    id bigint NOT NULL,
    item_id character varying(26) NOT NULL,
    attempt integer NOT NULL,
    due_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.outbox_id_seq OWNED BY public.outbox.id;
CREATE TABLE public.plan_alias_changes (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    name character varying(64) NOT NULL,
    version bigint NOT NULL,
    action character varying(16) NOT NULL,
    from_digest character varying(128),
    to_digest character varying(128),
    changed_by character varying(128) NOT NULL,
    changed_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.plan_alias_changes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.plan_alias_changes_id_seq OWNED BY public.plan_alias_changes.id;
CREATE TABLE public.plan_aliases (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    name character varying(64) NOT NULL,
    digest character varying(128) NOT NULL,
    version bigint NOT NULL,
    changed_by character varying(128) NOT NULL,
    changed_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.plan_aliases_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.plan_aliases_id_seq OWNED BY public.plan_aliases.id;
CREATE TABLE public.plan_budgets (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    digest character varying(128) NOT NULL,
    metric character varying(128) NOT NULL,
    limit_value bigint NOT NULL
);
CREATE SEQUENCE public.plan_budgets_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.plan_budgets_id_seq OWNED BY public.plan_budgets.id;
CREATE TABLE public.plan_comments (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    digest character varying(128) NOT NULL,
    text text NOT NULL,
    created_by character varying(128) NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.plan_comments_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.plan_comments_id_seq OWNED BY public.plan_comments.id;
CREATE TABLE public.plan_labels (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    digest character varying(128) NOT NULL,
    label character varying(64) NOT NULL,
    created_by character varying(128) NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.plan_labels_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.plan_labels_id_seq OWNED BY public.plan_labels.id;
CREATE TABLE public.plan_measurements (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    digest character varying(128) NOT NULL,
    job_id character varying(26) NOT NULL,
    measured jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.plan_measurements_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.plan_measurements_id_seq OWNED BY public.plan_measurements.id;
CREATE TABLE public.plans (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    digest character varying(128) NOT NULL,
    profile_key character varying(128) NOT NULL,
    model character varying(512) NOT NULL,
    weights_sha256 character varying(64) NOT NULL,
    document jsonb NOT NULL,
    created_by character varying(128) NOT NULL,
    created_at timestamp with time zone NOT NULL,
    predicted_loss_nats double precision,
    derived_from character varying(128),
    derivation character varying(16)
);
CREATE SEQUENCE public.plans_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.plans_id_seq OWNED BY public.plans.id;
CREATE TABLE public.profiles (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    key character varying(128) NOT NULL,
    model character varying(512) NOT NULL,
    weights_sha256 character varying(64) NOT NULL,
    calibration_sha256 character varying(64) NOT NULL,
    document jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.profiles_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.profiles_id_seq OWNED BY public.profiles.id;
CREATE TABLE public.shares (
    id character varying(26) NOT NULL,
    team character varying(64) NOT NULL,
    with_team character varying(64) NOT NULL,
    kind character varying(16) NOT NULL,
    key character varying(128) NOT NULL,
    created_by character varying(128) NOT NULL,
    created_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone,
    revoked_by character varying(128)
);
CREATE TABLE public.teams (
    name character varying(64) NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE public.tokens (
    id character varying(26) NOT NULL,
    team character varying(64) NOT NULL,
    name character varying(64) NOT NULL,
    scope character varying(16) NOT NULL,
    sha256 character varying(64) NOT NULL,
    prefix character varying(16) NOT NULL,
    created_by character varying(128) NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone
);
CREATE TABLE public.units (
    id bigint NOT NULL,
    team character varying(64) NOT NULL,
    key character varying(128) NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.units_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.units_id_seq OWNED BY public.units.id;
ALTER TABLE ONLY public.artifacts ALTER COLUMN id SET DEFAULT nextval('public.artifacts_id_seq'::regclass);
ALTER TABLE ONLY public.audit ALTER COLUMN id SET DEFAULT nextval('public.audit_id_seq'::regclass);
ALTER TABLE ONLY public.latency_tables ALTER COLUMN id SET DEFAULT nextval('public.latency_tables_id_seq'::regclass);
ALTER TABLE ONLY public.models ALTER COLUMN id SET DEFAULT nextval('public.models_id_seq'::regclass);
ALTER TABLE ONLY public.outbox ALTER COLUMN id SET DEFAULT nextval('public.outbox_id_seq'::regclass);
ALTER TABLE ONLY public.plan_alias_changes ALTER COLUMN id SET DEFAULT nextval('public.plan_alias_changes_id_seq'::regclass);
ALTER TABLE ONLY public.plan_aliases ALTER COLUMN id SET DEFAULT nextval('public.plan_aliases_id_seq'::regclass);
ALTER TABLE ONLY public.plan_budgets ALTER COLUMN id SET DEFAULT nextval('public.plan_budgets_id_seq'::regclass);
ALTER TABLE ONLY public.plan_comments ALTER COLUMN id SET DEFAULT nextval('public.plan_comments_id_seq'::regclass);
ALTER TABLE ONLY public.plan_labels ALTER COLUMN id SET DEFAULT nextval('public.plan_labels_id_seq'::regclass);
ALTER TABLE ONLY public.plan_measurements ALTER COLUMN id SET DEFAULT nextval('public.plan_measurements_id_seq'::regclass);
ALTER TABLE ONLY public.plans ALTER COLUMN id SET DEFAULT nextval('public.plans_id_seq'::regclass);
ALTER TABLE ONLY public.profiles ALTER COLUMN id SET DEFAULT nextval('public.profiles_id_seq'::regclass);
ALTER TABLE ONLY public.units ALTER COLUMN id SET DEFAULT nextval('public.units_id_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('0007');
INSERT INTO public.artifacts VALUES (1, 'default', '01M87EH18PNHNAPS7DDBSW8Q62', 'compact/weights.bin', 1099511627776, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', '01M87EH18PNHNAPS7DDBSW8Q62/compact/weights.bin', '2026-11-24 18:54:09.579517+00', NULL);
INSERT INTO public.audit VALUES (1, 'default', 'me', 'made', 'plan', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '{}', '2026-11-24 18:54:09.086043+00');
INSERT INTO public.audit VALUES (2, 'default', 'me', 'aliased', 'alias', 'prod', '{"to": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "from": null, "version": 1}', '2026-11-24 18:54:09.104167+00');
INSERT INTO public.audit VALUES (3, 'default', 'me', 'labelled', 'plan', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '{"label": "good"}', '2026-11-24 18:54:09.112215+00');
INSERT INTO public.audit VALUES (4, 'default', 'me', 'commented', 'plan', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '{"comment": 1}', '2026-11-24 18:54:09.119563+00');
INSERT INTO public.audit VALUES (5, 'default', 'me', 'imported', 'latency table', 'e3790f0eeaa5f044f7fcc5987aee28806af6a8118e607a70a5af0703e26a0123', '{}', '2026-11-24 18:54:09.12713+00');
INSERT INTO public.audit VALUES (6, 'red', 'me', 'created', 'team', 'red', '{}', '2026-11-24 18:54:09.130676+00');
INSERT INTO public.audit VALUES (7, 'default', 'me', 'created', 'member', 'ada', '{"was": null, "role": "submit"}', '2026-11-24 18:54:09.13826+00');
INSERT INTO public.audit VALUES (8, 'default', 'me', 'created', 'token', '01M87EH17PTGRMXPJBMSTE9E4D', '{"for": "ada", "scope": "submit"}', '2026-11-24 18:54:09.144125+00');
INSERT INTO public.audit VALUES (9, 'default', 'me', 'shared', 'profile', '877fa92a4d8f48235d9ac7d869da576c69cd17dae43d04403b4045c642da789c', '{"with": "red"}', '2026-11-24 18:54:09.161853+00');
INSERT INTO public.audit VALUES (10, 'default', 'me', 'submitted', 'job', '01M87EH18PNHNAPS7DDBSW8Q62', '{"kind": "profile"}', '2026-11-24 18:54:09.186487+00');
INSERT INTO public.audit VALUES (11, 'default', 'me', 'submitted', 'job', '01M87EH19X1P4QY9SJP3TYF7E4', '{"kind": "profile"}', '2026-11-24 18:54:09.219783+00');
INSERT INTO public.audit VALUES (12, 'default', 'me', 'submitted', 'job', '01M87EH1ASJXJH5SP31PFMNPB4', '{"kind": "profile"}', '2026-11-24 18:54:09.243817+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 1, 'job.queued', 'The job was accepted.', '{"kind": "profile"}', '2026-11-24 18:54:09.188125+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 2, 'stage.started', 'Stage prepare has started: 2 parts.', '{"items": 2, "stage": "prepare"}', '2026-11-24 18:54:09.205922+00');
INSERT INTO public.events VALUES ('01M87EH19X1P4QY9SJP3TYF7E4', 1, 'job.queued', 'The job was accepted.', '{"kind": "profile"}', '2026-11-24 18:54:09.220483+00');
INSERT INTO public.events VALUES ('01M87EH19X1P4QY9SJP3TYF7E4', 2, 'stage.started', 'Stage prepare has started: 2 parts.', '{"items": 2, "stage": "prepare"}', '2026-11-24 18:54:09.231668+00');
INSERT INTO public.events VALUES ('01M87EH1ASJXJH5SP31PFMNPB4', 1, 'job.queued', 'The job was accepted.', '{"kind": "profile"}', '2026-11-24 18:54:09.244474+00');
INSERT INTO public.events VALUES ('01M87EH1ASJXJH5SP31PFMNPB4', 2, 'stage.started', 'Stage prepare has started: 2 parts.', '{"items": 2, "stage": "prepare"}', '2026-11-24 18:54:09.255168+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 3, 'item.started', 'prepare/prepare-0 has started.', '{"item": "prepare-0", "stage": "prepare", "attempt": 1}', '2026-11-24 18:54:09.301935+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 4, 'test.ran', 'prepare-0 ran', '{}', '2026-11-24 18:54:09.332136+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 5, 'item.finished', 'prepare/prepare-0 has finished.', '{"item": "prepare-0", "stage": "prepare", "attempt": 1}', '2026-11-24 18:54:09.344143+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 6, 'item.started', 'prepare/prepare-1 has started.', '{"item": "prepare-1", "stage": "prepare", "attempt": 1}', '2026-11-24 18:54:09.362947+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 7, 'test.ran', 'prepare-1 ran', '{}', '2026-11-24 18:54:09.404759+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 8, 'item.finished', 'prepare/prepare-1 has finished.', '{"item": "prepare-1", "stage": "prepare", "attempt": 1}', '2026-11-24 18:54:09.416042+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 9, 'stage.started', 'Stage calibrate has started: 1 part.', '{"items": 1, "stage": "calibrate"}', '2026-11-24 18:54:09.41932+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 10, 'item.started', 'calibrate/calibrate-0 has started.', '{"item": "calibrate-0", "stage": "calibrate", "attempt": 1}', '2026-11-24 18:54:09.434325+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 11, 'test.ran', 'calibrate-0 ran', '{}', '2026-11-24 18:54:09.447566+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 12, 'item.finished', 'calibrate/calibrate-0 has finished.', '{"item": "calibrate-0", "stage": "calibrate", "attempt": 1}', '2026-11-24 18:54:09.451662+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 13, 'stage.started', 'Stage surroundings has started: 1 part.', '{"items": 1, "stage": "surroundings"}', '2026-11-24 18:54:09.455415+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 14, 'item.started', 'surroundings/surroundings-0 has started.', '{"item": "surroundings-0", "stage": "surroundings", "attempt": 1}', '2026-11-24 18:54:09.474253+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 15, 'test.ran', 'surroundings-0 ran', '{}', '2026-11-24 18:54:09.487595+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 16, 'item.finished', 'surroundings/surroundings-0 has finished.', '{"item": "surroundings-0", "stage": "surroundings", "attempt": 1}', '2026-11-24 18:54:09.4918+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 17, 'stage.started', 'Stage profile has started: 1 part.', '{"items": 1, "stage": "profile"}', '2026-11-24 18:54:09.49566+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 18, 'item.started', 'profile/profile-0 has started.', '{"item": "profile-0", "stage": "profile", "attempt": 1}', '2026-11-24 18:54:09.510658+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 19, 'test.ran', 'profile-0 ran', '{}', '2026-11-24 18:54:09.523425+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 20, 'item.finished', 'profile/profile-0 has finished.', '{"item": "profile-0", "stage": "profile", "attempt": 1}', '2026-11-24 18:54:09.528089+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 21, 'stage.started', 'Stage assemble has started: 1 part.', '{"items": 1, "stage": "assemble"}', '2026-11-24 18:54:09.535498+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 22, 'item.started', 'assemble/assemble-0 has started.', '{"item": "assemble-0", "stage": "assemble", "attempt": 1}', '2026-11-24 18:54:09.547123+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 23, 'test.ran', 'assemble-0 ran', '{}', '2026-11-24 18:54:09.559696+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 24, 'item.finished', 'assemble/assemble-0 has finished.', '{"item": "assemble-0", "stage": "assemble", "attempt": 1}', '2026-11-24 18:54:09.563668+00');
INSERT INTO public.events VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 25, 'job.succeeded', 'The job has succeeded.', '{}', '2026-11-24 18:54:09.57056+00');
INSERT INTO public.events VALUES ('01M87EH19X1P4QY9SJP3TYF7E4', 3, 'item.started', 'prepare/prepare-0 has started.', '{"item": "prepare-0", "stage": "prepare", "attempt": 1}', '2026-11-24 18:54:09.59478+00');
INSERT INTO public.events VALUES ('01M87EH19X1P4QY9SJP3TYF7E4', 4, 'test.ran', 'prepare-0 ran', '{}', '2026-11-24 18:54:09.607505+00');
INSERT INTO public.events VALUES ('01M87EH19X1P4QY9SJP3TYF7E4', 5, 'item.finished', 'prepare/prepare-0 has finished.', '{"item": "prepare-0", "stage": "prepare", "attempt": 1}', '2026-11-24 18:54:09.611702+00');
INSERT INTO public.events VALUES ('01M87EH19X1P4QY9SJP3TYF7E4', 6, 'item.started', 'prepare/prepare-1 has started.', '{"item": "prepare-1", "stage": "prepare", "attempt": 1}', '2026-11-24 18:54:09.626253+00');
INSERT INTO public.job_items VALUES ('01M87EH1AX2YA9MFY5D2A7855X', '01M87EH1ASJXJH5SP31PFMNPB4', 'prepare', 0, 'prepare-0', '{"n": 0}', 'queued', 0, 0, 0, '', '1970-01-01 00:00:00+00', '2026-11-24 18:54:09.245628+00', 0, '1970-01-01 00:00:00+00', 0, 0, '', NULL, NULL, '2026-11-24 18:54:09.245628+00', NULL, NULL);
INSERT INTO public.job_items VALUES ('01M87EH1AX2YA9MFY5D2A7855Y', '01M87EH1ASJXJH5SP31PFMNPB4', 'prepare', 1, 'prepare-1', '{"n": 1}', 'queued', 0, 0, 0, '', '1970-01-01 00:00:00+00', '2026-11-24 18:54:09.253911+00', 0, '1970-01-01 00:00:00+00', 0, 0, '', NULL, NULL, '2026-11-24 18:54:09.253911+00', NULL, NULL);
INSERT INTO public.job_items VALUES ('01M87EH19AN9SGVWNF690NVWD5', '01M87EH18PNHNAPS7DDBSW8Q62', 'prepare', 0, 'prepare-0', '{"n": 0}', 'succeeded', 1, 0, 0, '', '1970-01-01 00:00:00+00', '2026-11-24 18:54:09.198027+00', 0, '1970-01-01 00:00:00+00', 2, 2, 'steps', '{"sum": "0521186fd807244c976e76c834e1e53b04ffa7d5d46f30df486726e7db816b1b", "item": "prepare-0", "before": {}}', NULL, '2026-11-24 18:54:09.198027+00', '2026-11-24 18:54:09.290629+00', '2026-11-24 18:54:09.34329+00');
INSERT INTO public.job_items VALUES ('01M87EH19AN9SGVWNF690NVWD6', '01M87EH18PNHNAPS7DDBSW8Q62', 'prepare', 1, 'prepare-1', '{"n": 1}', 'succeeded', 1, 0, 0, '', '1970-01-01 00:00:00+00', '2026-11-24 18:54:09.198299+00', 0, '1970-01-01 00:00:00+00', 2, 2, 'steps', '{"sum": "72d85d6e287a3db2b5c23fa58ce1f5a4b0cda8cf6ccc3ba0b054aaffe84bf118", "item": "prepare-1", "before": {}}', NULL, '2026-11-24 18:54:09.198299+00', '2026-11-24 18:54:09.359111+00', '2026-11-24 18:54:09.415469+00');
INSERT INTO public.job_items VALUES ('01M87EH1G9CVVNM97NKB95V96G', '01M87EH18PNHNAPS7DDBSW8Q62', 'calibrate', 0, 'calibrate-0', '{"n": 0}', 'succeeded', 1, 0, 0, '', '1970-01-01 00:00:00+00', '2026-11-24 18:54:09.418204+00', 0, '1970-01-01 00:00:00+00', 2, 2, 'steps', '{"sum": "d9d411f000df0d7282f67f996774fe94ce8b6c9aac264922740d0b244cdf4d9a", "item": "calibrate-0", "before": {"prepare": 2}}', NULL, '2026-11-24 18:54:09.418204+00', '2026-11-24 18:54:09.431773+00', '2026-11-24 18:54:09.451088+00');
INSERT INTO public.job_items VALUES ('01M87EH1HEFB9BWZC3SQM5D869', '01M87EH18PNHNAPS7DDBSW8Q62', 'surroundings', 0, 'surroundings-0', '{"n": 0}', 'succeeded', 1, 0, 0, '', '1970-01-01 00:00:00+00', '2026-11-24 18:54:09.454578+00', 0, '1970-01-01 00:00:00+00', 2, 2, 'steps', '{"sum": "822bee61f20f89eb27ba4949a3e598e9f9ef4f149664ec9cd6c26f99efea2b37", "item": "surroundings-0", "before": {"prepare": 2, "calibrate": 1}}', NULL, '2026-11-24 18:54:09.454578+00', '2026-11-24 18:54:09.470276+00', '2026-11-24 18:54:09.491165+00');
INSERT INTO public.job_items VALUES ('01M87EH1JPWQC044VDNQHD4QF1', '01M87EH18PNHNAPS7DDBSW8Q62', 'profile', 0, 'profile-0', '{"n": 0}', 'succeeded', 1, 0, 0, '', '1970-01-01 00:00:00+00', '2026-11-24 18:54:09.494742+00', 0, '1970-01-01 00:00:00+00', 2, 2, 'steps', '{"sum": "e4d49c2cdc313ed98e1c59e1cf38a6bb3df17b17dfe45ae527b2ff9949c8a681", "item": "profile-0", "before": {"prepare": 2, "calibrate": 1, "surroundings": 1}}', NULL, '2026-11-24 18:54:09.494742+00', '2026-11-24 18:54:09.506009+00', '2026-11-24 18:54:09.52748+00');
INSERT INTO public.job_items VALUES ('01M87EH1KYTH688MXWTP56E3Z1', '01M87EH18PNHNAPS7DDBSW8Q62', 'assemble', 0, 'assemble-0', '{"n": 0}', 'succeeded', 1, 0, 0, '', '1970-01-01 00:00:00+00', '2026-11-24 18:54:09.534713+00', 0, '1970-01-01 00:00:00+00', 2, 2, 'steps', '{"sum": "7409ad8abb3adee5cdf797e87c1f4e5bfddbbf5316c31ff910ee49f1f5f4c72b", "item": "assemble-0", "before": {"prepare": 2, "profile": 1, "calibrate": 1, "surroundings": 1}}', NULL, '2026-11-24 18:54:09.534713+00', '2026-11-24 18:54:09.54619+00', '2026-11-24 18:54:09.563151+00');
INSERT INTO public.job_items VALUES ('01M87EH1AER8APXVERKPQW1GYB', '01M87EH19X1P4QY9SJP3TYF7E4', 'prepare', 0, 'prepare-0', '{"n": 0}', 'succeeded', 1, 0, 0, '', '1970-01-01 00:00:00+00', '2026-11-24 18:54:09.230554+00', 0, '1970-01-01 00:00:00+00', 2, 2, 'steps', '{"sum": "0521186fd807244c976e76c834e1e53b04ffa7d5d46f30df486726e7db816b1b", "item": "prepare-0", "before": {}}', NULL, '2026-11-24 18:54:09.230554+00', '2026-11-24 18:54:09.58857+00', '2026-11-24 18:54:09.611099+00');
INSERT INTO public.job_items VALUES ('01M87EH1AER8APXVERKPQW1GYC', '01M87EH19X1P4QY9SJP3TYF7E4', 'prepare', 1, 'prepare-1', '{"n": 1}', 'running', 1, 0, 0, 'vm:28360', '2026-11-24 18:54:09.820973+00', '2026-11-24 18:54:09.230658+00', 0, '1970-01-01 00:00:00+00', 0, 0, '', NULL, NULL, '2026-11-24 18:54:09.230658+00', '2026-11-24 18:54:09.620973+00', NULL);
INSERT INTO public.jobs VALUES ('01M87EH18PNHNAPS7DDBSW8Q62', 'default', 'profile', 'succeeded', 'assemble', 'local:small', '{"text": "größer ✓", "model": "local:small", "script": {"prepare": {"items": 2}}}', 'e7c8f8ac0c860bddfa4f92b65e6af9541896d8bf74fff8bbc9c5281b2c564da4', 'key-0', 'me', false, '1970-01-01 00:00:00+00', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '877fa92a4d8f48235d9ac7d869da576c69cd17dae43d04403b4045c642da789c', NULL, NULL, NULL, 25, '2026-11-24 18:54:09.176045+00', '2026-11-24 18:54:09.291641+00', '2026-11-24 18:54:09.567274+00', NULL);
INSERT INTO public.jobs VALUES ('01M87EH19X1P4QY9SJP3TYF7E4', 'default', 'profile', 'running', 'prepare', 'local:small', '{"text": "größer ✓", "model": "local:small", "script": {"prepare": {"items": 2}}}', 'e7c8f8ac0c860bddfa4f92b65e6af9541896d8bf74fff8bbc9c5281b2c564da4', 'key-1', 'me', false, '1970-01-01 00:00:00+00', NULL, NULL, NULL, NULL, NULL, 6, '2026-11-24 18:54:09.218859+00', '2026-11-24 18:54:09.589146+00', NULL, NULL);
INSERT INTO public.jobs VALUES ('01M87EH1ASJXJH5SP31PFMNPB4', 'default', 'profile', 'queued', 'prepare', 'local:small', '{"text": "größer ✓", "model": "local:small", "script": {"prepare": {"items": 2}}}', 'e7c8f8ac0c860bddfa4f92b65e6af9541896d8bf74fff8bbc9c5281b2c564da4', 'key-2', 'me', false, '1970-01-01 00:00:00+00', NULL, NULL, NULL, NULL, NULL, 2, '2026-11-24 18:54:09.242962+00', NULL, NULL, NULL);
INSERT INTO public.latency_tables VALUES (1, 'default', 'e3790f0eeaa5f044f7fcc5987aee28806af6a8118e607a70a5af0703e26a0123', 'cpu: a CPU', '{"dtype": "bfloat16", "digest": "e3790f0eeaa5f044f7fcc5987aee28806af6a8118e607a70a5af0703e26a0123", "rounds": 5, "schema": "rankalloc.latency/1", "machine": {"name": "a CPU", "torch": "2", "device": "cpu", "threads": 1, "transformers": "5"}, "timings": [{"batch": 1, "parts": {"ov": [{"ns": 0, "rank": 1, "spread_ns": 7}, {"ns": 3000, "rank": 4, "spread_ns": 7}, {"ns": 6000, "rank": 7, "spread_ns": 7}, {"ns": 9000, "rank": 10, "spread_ns": 7}, {"ns": 12000, "rank": 13, "spread_ns": 7}, {"ns": 15000, "rank": 16, "spread_ns": 7}], "qk": [{"ns": 0, "rank": 2, "spread_ns": 7}, {"ns": 6000, "rank": 8, "spread_ns": 7}, {"ns": 12000, "rank": 14, "spread_ns": 7}, {"ns": 14000, "rank": 16, "spread_ns": 7}], "mlp": [{"ns": 0, "rank": 2, "spread_ns": 7}, {"ns": 60000, "rank": 8, "spread_ns": 7}, {"ns": 120000, "rank": 14, "spread_ns": 7}, {"ns": 180000, "rank": 20, "spread_ns": 7}, {"ns": 240000, "rank": 26, "spread_ns": 7}, {"ns": 300000, "rank": 32, "spread_ns": 7}, {"ns": 360000, "rank": 38, "spread_ns": 7}, {"ns": 420000, "rank": 44, "spread_ns": 7}, {"ns": 480000, "rank": 50, "spread_ns": 7}, {"ns": 540000, "rank": 56, "spread_ns": 7}, {"ns": 600000, "rank": 62, "spread_ns": 7}, {"ns": 660000, "rank": 68, "spread_ns": 7}, {"ns": 720000, "rank": 74, "spread_ns": 7}, {"ns": 780000, "rank": 80, "spread_ns": 7}, {"ns": 840000, "rank": 86, "spread_ns": 7}, {"ns": 900000, "rank": 92, "spread_ns": 7}, {"ns": 960000, "rank": 98, "spread_ns": 7}, {"ns": 1020000, "rank": 104, "spread_ns": 7}, {"ns": 1080000, "rank": 110, "spread_ns": 7}, {"ns": 1140000, "rank": 116, "spread_ns": 7}, {"ns": 1200000, "rank": 122, "spread_ns": 7}, {"ns": 1260000, "rank": 128, "spread_ns": 7}]}, "phase": "decode", "checks": [{"share": 0.5, "spread_ns": 1, "measured_ns": 10, "predicted_ns": 11}], "context": 64, "dense_ns": 2678000, "constant_ns": 100000, "dense_spread_ns": 5}, {"batch": 1, "parts": {"ov": [{"ns": 0, "rank": 1, "spread_ns": 7}, {"ns": 3000, "rank": 4, "spread_ns": 7}, {"ns": 6000, "rank": 7, "spread_ns": 7}, {"ns": 9000, "rank": 10, "spread_ns": 7}, {"ns": 12000, "rank": 13, "spread_ns": 7}, {"ns": 15000, "rank": 16, "spread_ns": 7}], "qk": [{"ns": 0, "rank": 2, "spread_ns": 7}, {"ns": 6000, "rank": 8, "spread_ns": 7}, {"ns": 12000, "rank": 14, "spread_ns": 7}, {"ns": 14000, "rank": 16, "spread_ns": 7}], "mlp": [{"ns": 0, "rank": 2, "spread_ns": 7}, {"ns": 60000, "rank": 8, "spread_ns": 7}, {"ns": 120000, "rank": 14, "spread_ns": 7}, {"ns": 180000, "rank": 20, "spread_ns": 7}, {"ns": 240000, "rank": 26, "spread_ns": 7}, {"ns": 300000, "rank": 32, "spread_ns": 7}, {"ns": 360000, "rank": 38, "spread_ns": 7}, {"ns": 420000, "rank": 44, "spread_ns": 7}, {"ns": 480000, "rank": 50, "spread_ns": 7}, {"ns": 540000, "rank": 56, "spread_ns": 7}, {"ns": 600000, "rank": 62, "spread_ns": 7}, {"ns": 660000, "rank": 68, "spread_ns": 7}, {"ns": 720000, "rank": 74, "spread_ns": 7}, {"ns": 780000, "rank": 80, "spread_ns": 7}, {"ns": 840000, "rank": 86, "spread_ns": 7}, {"ns": 900000, "rank": 92, "spread_ns": 7}, {"ns": 960000, "rank": 98, "spread_ns": 7}, {"ns": 1020000, "rank": 104, "spread_ns": 7}, {"ns": 1080000, "rank": 110, "spread_ns": 7}, {"ns": 1140000, "rank": 116, "spread_ns": 7}, {"ns": 1200000, "rank": 122, "spread_ns": 7}, {"ns": 1260000, "rank": 128, "spread_ns": 7}]}, "phase": "prefill", "checks": [{"share": 0.5, "spread_ns": 1, "measured_ns": 10, "predicted_ns": 11}], "context": 64, "dense_ns": 5356000, "constant_ns": 100000, "dense_spread_ns": 5}], "geometry": {"fixed": [], "heads": 4, "vocab": 256, "family": "llama", "hidden": 64, "layers": 2, "experts": 1, "ov_bias": false, "qk_bias": false, "qk_step": 2, "windows": [], "head_dim": 16, "kv_heads": 2, "mlp_bias": false, "intermediate": 128, "mlp_matrices": 3, "total_params": 110000, "max_positions": 128, "active_experts": 1, "bytes_per_param": 2}, "attention": "sdpa", "layers_measured": 2}', 'me', '2026-11-24 18:54:09.126336+00');
INSERT INTO public.members VALUES ('default', 'ada', 'submit', '2026-11-24 18:54:09.135923+00');
INSERT INTO public.models VALUES (1, 'default', 'local:small', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '{"reference": "local:small", "weights_sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}', '2026-11-24 18:54:09.06704+00', '2026-11-24 18:54:09.06704+00');
INSERT INTO public.outbox VALUES (1, '01M87EH19AN9SGVWNF690NVWD5', 0, '2026-11-24 18:54:09.206818+00', '2026-11-24 18:54:09.206818+00');
INSERT INTO public.outbox VALUES (2, '01M87EH19AN9SGVWNF690NVWD6', 0, '2026-11-24 18:54:09.207519+00', '2026-11-24 18:54:09.207519+00');
INSERT INTO public.outbox VALUES (3, '01M87EH1AER8APXVERKPQW1GYB', 0, '2026-11-24 18:54:09.231951+00', '2026-11-24 18:54:09.231952+00');
INSERT INTO public.outbox VALUES (4, '01M87EH1AER8APXVERKPQW1GYC', 0, '2026-11-24 18:54:09.232276+00', '2026-11-24 18:54:09.232276+00');
INSERT INTO public.outbox VALUES (5, '01M87EH1AX2YA9MFY5D2A7855X', 0, '2026-11-24 18:54:09.255455+00', '2026-11-24 18:54:09.255455+00');
INSERT INTO public.outbox VALUES (6, '01M87EH1AX2YA9MFY5D2A7855Y', 0, '2026-11-24 18:54:09.255796+00', '2026-11-24 18:54:09.255796+00');
INSERT INTO public.outbox VALUES (7, '01M87EH1G9CVVNM97NKB95V96G', 0, '2026-11-24 18:54:09.419583+00', '2026-11-24 18:54:09.419583+00');
INSERT INTO public.outbox VALUES (8, '01M87EH1HEFB9BWZC3SQM5D869', 0, '2026-11-24 18:54:09.455621+00', '2026-11-24 18:54:09.455621+00');
INSERT INTO public.outbox VALUES (9, '01M87EH1JPWQC044VDNQHD4QF1', 0, '2026-11-24 18:54:09.498179+00', '2026-11-24 18:54:09.498179+00');
INSERT INTO public.outbox VALUES (10, '01M87EH1KYTH688MXWTP56E3Z1', 0, '2026-11-24 18:54:09.535702+00', '2026-11-24 18:54:09.535703+00');
INSERT INTO public.plan_alias_changes VALUES (1, 'default', 'prod', 1, 'set', NULL, 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', 'me', '2026-11-24 18:54:09.103552+00');
INSERT INTO public.plan_aliases VALUES (1, 'default', 'prod', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', 1, 'me', '2026-11-24 18:54:09.102648+00');
INSERT INTO public.plan_budgets VALUES (1, 'default', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', 'params', 9007199254740991);
INSERT INTO public.plan_comments VALUES (1, 'default', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', 'größer ✓', 'me', '2026-11-24 18:54:09.118828+00');
INSERT INTO public.plan_labels VALUES (1, 'default', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', 'good', 'me', '2026-11-24 18:54:09.111712+00');
INSERT INTO public.plan_measurements VALUES (1, 'default', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '00000000000000000000000000', '{"loss_nats": 0.00000000000000001}', '2026-11-24 18:54:09.091294+00');
INSERT INTO public.plans VALUES (1, 'default', 'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', '877fa92a4d8f48235d9ac7d869da576c69cd17dae43d04403b4045c642da789c', 'local:small', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '{"model": {"geometry": {"fixed": [], "heads": 4, "vocab": 256, "family": "llama", "hidden": 64, "layers": 2, "experts": 1, "ov_bias": false, "qk_bias": false, "qk_step": 2, "windows": [], "head_dim": 16, "kv_heads": 2, "mlp_bias": false, "intermediate": 128, "mlp_matrices": 3, "total_params": 110000, "max_positions": 128, "active_experts": 1, "bytes_per_param": 2}, "reference": "local:small", "weights_sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}, "budgets": [{"limit": 9007199254740991, "metric": "params"}], "measured": null, "predicted": {"loss_nats": 0.125}, "profile_key": "877fa92a4d8f48235d9ac7d869da576c69cd17dae43d04403b4045c642da789c"}', 'me', '2026-11-24 18:54:09.080543+00', 0.125, NULL, NULL);
INSERT INTO public.profiles VALUES (1, 'default', '877fa92a4d8f48235d9ac7d869da576c69cd17dae43d04403b4045c642da789c', 'local:small', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', '{"key": "877fa92a4d8f48235d9ac7d869da576c69cd17dae43d04403b4045c642da789c", "cost": {"cuts": 21, "units": 789, "measure_tokens": [2048, 6144], "measured_tokens": 123456, "forward_equivalents": [2.23, 6.7], "forward_equivalents_per_layer": [1.117, 3.35]}, "model": {"geometry": {"fixed": [], "heads": 4, "vocab": 256, "family": "llama", "hidden": 64, "layers": 2, "experts": 1, "ov_bias": false, "qk_bias": false, "qk_step": 2, "windows": [], "head_dim": 16, "kv_heads": 2, "mlp_bias": false, "intermediate": 128, "mlp_matrices": 3, "total_params": 110000, "max_positions": 128, "active_experts": 1, "bytes_per_param": 2}, "reference": "local:small", "weights_sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}, "around": null, "curves": [{"layer": 0, "ranks": [2, 4, 6, 8, 10, 12, 14, 16], "repairs": [], "analytic": [520598.6341387932, 317107.5009782018, 193832.51574590788, 119468.21889614062, 73106.61927440258, 45172.07513297386, 27436.514886767207, 0.0], "held_out": [{"rank": 4, "measured_nats": 0.33826035710464236, "predicted_nats": 0.3619810649019342}, {"rank": 6, "measured_nats": 0.25711695354249403, "predicted_nats": 0.20051609998939984}, {"rank": 8, "measured_nats": 0.11991616314952191, "predicted_nats": 0.1252317310049653}, {"rank": 10, "measured_nats": 0.06034734115475951, "predicted_nats": 0.08046247606258185}, {"rank": 12, "measured_nats": 0.05441624051659042, "predicted_nats": 0.04283451289770401}, {"rank": 14, "measured_nats": 0.03003462107829875, "predicted_nats": 0.033051215571133094}], "measured": [{"rank": 2, "windows": 48, "loss_nats": 0.5108517591764162, "stderr_nats": 0.010227381798558187}, {"rank": 4, "windows": 48, "loss_nats": 0.33826035710464236, "stderr_nats": 0.015691847307783557}, {"rank": 6, "windows": 48, "loss_nats": 0.25711695354249403, "stderr_nats": 0.012678801838809386}, {"rank": 8, "windows": 48, "loss_nats": 0.11991616314952191, "stderr_nats": 0.005085487321828088}, {"rank": 10, "windows": 48, "loss_nats": 0.06034734115475951, "stderr_nats": 0.0027812060671230095}, {"rank": 12, "windows": 48, "loss_nats": 0.05441624051659042, "stderr_nats": 0.0012192449942745724}, {"rank": 14, "windows": 48, "loss_nats": 0.03003462107829875, "stderr_nats": 0.0011771550111791989}], "component": "qk", "full_rank": 16, "loss_nats": [0.5108517591764162, 0.33826035710464236, 0.25711695354249403, 0.11991616314952191, 0.06034734115475951, 0.05441624051659042, 0.03003462107829875, 0.0]}, {"layer": 0, "ranks": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], "repairs": [], "analytic": [706545.1923309256, 550956.3038223789, 428244.0876100121, 337610.3761039376, 265316.5851663308, 209020.71133438856, 163857.06066063145, 127070.78155805489, 100281.61481897507, 77586.9806118051, 61422.84820175557, 47854.824447816245, 37074.53263286197, 29446.64605015867, 22912.17737644385, 0.0], "held_out": [{"rank": 2, "measured_nats": 0.6250723568036598, "predicted_nats": 0.6410622372364294}, {"rank": 4, "measured_nats": 0.33587583296951246, "predicted_nats": 0.3200519525365113}, {"rank": 6, "measured_nats": 0.16619836679194736, "predicted_nats": 0.1862688013754415}, {"rank": 9, "measured_nats": 0.07549738207108471, "predicted_nats": 0.10471446591643845}, {"rank": 12, "measured_nats": 0.06575406972775454, "predicted_nats": 0.03383925795181459}, {"rank": 15, "measured_nats": 0.015221857516961437, "predicted_nats": 0.03148206949266361}], "measured": [{"rank": 1, "windows": 48, "loss_nats": 0.8901593178164724, "stderr_nats": 0.02029757672053809}, {"rank": 2, "windows": 48, "loss_nats": 0.6250723568036598, "stderr_nats": 0.018950709749504614}, {"rank": 4, "windows": 48, "loss_nats": 0.33587583296951246, "stderr_nats": 0.015891411839069048}, {"rank": 6, "windows": 48, "loss_nats": 0.16619836679194736, "stderr_nats": 0.0023869931031033635}, {"rank": 9, "windows": 48, "loss_nats": 0.07549738207108471, "stderr_nats": 0.002419743176765768}, {"rank": 12, "windows": 48, "loss_nats": 0.06575406972775454, "stderr_nats": 0.002515912225730666}, {"rank": 15, "windows": 48, "loss_nats": 0.015221857516961437, "stderr_nats": 0.00048554127721748587}], "component": "ov", "full_rank": 16, "loss_nats": [0.8901593178164724, 0.6250723568036598, 0.45410327702275494, 0.33587583296951246, 0.23583760985235297, 0.16619836679194736, 0.12794937205646692, 0.09736547847734452, 0.07549738207108471, 0.07196467133233478, 0.0688921265329445, 0.06575406972775454, 0.03960045632821118, 0.025058439947063717, 0.015221857516961437, 0.0]}, {"layer": 0, "ranks": [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62, 64, 66, 68, 70, 72, 74, 76, 78, 80, 82, 84, 86, 88, 90, 92, 94, 96, 98, 100, 102, 104, 106, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126, 128], "repairs": [], "analytic": [766965.257023933, 727595.1652625095, 679561.0142759545, 639068.0125927264, 599462.782926464, 565626.0910770585, 529842.2749852801, 500331.31848901225, 467982.5705076697, 439341.21704477805, 413268.47457565047, 392097.33994454175, 369171.06647928426, 346033.9847378134, 322997.2393108301, 307936.81485289463, 290364.6544023523, 273400.2983799332, 256776.3673919398, 241818.21036164716, 227592.1055180376, 212473.07526491053, 199278.19264716035, 188641.8324062354, 175937.7276944421, 167287.7528951574, 157486.8895499232, 148282.7881753005, 138645.52599789144, 131361.86086977, 122666.34201252695, 115095.33501988005, 108725.29105239928, 102963.5991126194, 96706.26440015949, 90749.04367057845, 84161.33374833193, 80017.94941955856, 75083.53871191891, 70834.5376328379, 66920.11681960244, 62199.30825488953, 59085.772415962354, 54902.501749629315, 51754.62824840416, 49248.02922777015, 45902.27691374233, 43599.36762049002, 40431.08734898794, 38068.820235506, 36209.22066727257, 33619.48768015582, 31963.470185080012, 30270.056341666615, 28262.91355372177, 26664.861791271807, 24756.915733200825, 23575.004653056745, 22164.45360555167, 20837.575129789762, 19529.700422681453, 18363.93429636012, 17486.48534107137, 0.0], "held_out": [{"rank": 10, "measured_nats": 0.41909410180147966, "predicted_nats": 0.40488158210485414}, {"rank": 26, "measured_nats": 0.286721661968921, "predicted_nats": 0.3256082063149338}, {"rank": 46, "measured_nats": 0.23620018615494712, "predicted_nats": 0.17012571770681897}, {"rank": 70, "measured_nats": 0.09224338895273904, "predicted_nats": 0.09887264293116282}, {"rank": 96, "measured_nats": 0.03787622005093142, "predicted_nats": 0.03354224849915124}, {"rank": 126, "measured_nats": 0.010513213831166083, "predicted_nats": 0.015191091129141491}], "measured": [{"rank": 2, "windows": 48, "loss_nats": 0.48250829699861403, "stderr_nats": 0.008536720939688271}, {"rank": 10, "windows": 48, "loss_nats": 0.41909410180147966, "stderr_nats": 0.00979677206557869}, {"rank": 26, "windows": 48, "loss_nats": 0.286721661968921, "stderr_nats": 0.005613046299945333}, {"rank": 46, "windows": 48, "loss_nats": 0.23620018615494712, "stderr_nats": 0.008384156149621172}, {"rank": 70, "windows": 48, "loss_nats": 0.09224338895273904, "stderr_nats": 0.0023195451386080817}, {"rank": 96, "windows": 48, "loss_nats": 0.03787622005093142, "stderr_nats": 0.0017050713613995132}, {"rank": 126, "windows": 48, "loss_nats": 0.010513213831166083, "stderr_nats": 0.00034405603337204853}], "component": "mlp", "full_rank": 128, "loss_nats": [0.48250829699861403, 0.46818555215368907, 0.45025322712404425, 0.4347100606349646, 0.41909410180147966, 0.4004552360321773, 0.38047829679792833, 0.36378230738603895, 0.3452329982911227, 0.3285761715820501, 0.3132071731677981, 0.30057231676475155, 0.286721661968921, 0.2809465421755731, 0.2749270841947307, 0.27083089957490963, 0.2658740572772695, 0.2608895177589026, 0.255794818430344, 0.25101354476444193, 0.24627425914450146, 0.24100930509399773, 0.23620018615494712, 0.21993859475423785, 0.20087476280106867, 0.18812757419583764, 0.17392229020594274, 0.16082144819993086, 0.14736378531345867, 0.1373766465447065, 0.12567033500813427, 0.1156784840864103, 0.10742278693854117, 0.10007948913458899, 0.09224338895273904, 0.0859177385733661, 0.07897927575116306, 0.07464752410133305, 0.06952313137462268, 0.06514201231729483, 0.06113304629726643, 0.05633484457795668, 0.05319338509968508, 0.04900326371630947, 0.04587470692213185, 0.043399350196206166, 0.040118393601218195, 0.03787622005093142, 0.03407231310659622, 0.031312802128319835, 0.029188311562157097, 0.02630248979359619, 0.024503135647594324, 0.022701608305397428, 0.0206184501671021, 0.019001794084646455, 0.017122290286688012, 0.01598667093827416, 0.014661156427179911, 0.013444889739930403, 0.01227619997882638, 0.011260695163446313, 0.010513213831166083, 0.0]}, {"layer": 1, "ranks": [2, 4, 6, 8, 10, 12, 14, 16], "repairs": [], "analytic": [253991.2385477213, 156691.97498883455, 95546.57115764816, 58879.11150900917, 35663.90465346274, 22046.379899968306, 13469.286191578318, 0.0], "held_out": [{"rank": 4, "measured_nats": 0.16014836556690476, "predicted_nats": 0.13259728750552266}, {"rank": 6, "measured_nats": 0.09457318863476206, "predicted_nats": 0.09895266688701666}, {"rank": 8, "measured_nats": 0.06177148547897256, "predicted_nats": 0.06417655351391494}, {"rank": 10, "measured_nats": 0.04295317215740335, "predicted_nats": 0.041858728738091024}, {"rank": 12, "measured_nats": 0.028816825887748938, "predicted_nats": 0.02416995467274538}, {"rank": 14, "measured_nats": 0.013410912141090815, "predicted_nats": 0.017605705643107917}], "measured": [{"rank": 2, "windows": 48, "loss_nats": 0.184435549333185, "stderr_nats": 0.004146540857405705}, {"rank": 4, "windows": 48, "loss_nats": 0.16014836556690476, "stderr_nats": 0.004592364791172459}, {"rank": 6, "windows": 48, "loss_nats": 0.09457318863476206, "stderr_nats": 0.004006293745640196}, {"rank": 8, "windows": 48, "loss_nats": 0.06177148547897256, "stderr_nats": 0.002779757199345622}, {"rank": 10, "windows": 48, "loss_nats": 0.04295317215740335, "stderr_nats": 0.0018253636596966634}, {"rank": 12, "windows": 48, "loss_nats": 0.028816825887748938, "stderr_nats": 0.0005048722811708574}, {"rank": 14, "windows": 48, "loss_nats": 0.013410912141090815, "stderr_nats": 0.0006702346667178217}], "component": "qk", "full_rank": 16, "loss_nats": [0.184435549333185, 0.16014836556690476, 0.09457318863476206, 0.06177148547897256, 0.04295317215740335, 0.028816825887748938, 0.013410912141090815, 0.0]}, {"layer": 1, "ranks": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], "repairs": [{"rank": 1, "used_nats": 0.4974292180891151, "measured_nats": 0.40533809805209453}, {"rank": 2, "used_nats": 0.4974292180891151, "measured_nats": 0.5395887659613781}], "analytic": [491923.40924912173, 390211.1839183657, 307161.9230881613, 237749.7565360776, 187212.9568023799, 145546.8697709927, 113742.14205352367, 89973.53614852959, 69454.67439566295, 55290.965945817894, 43044.77984160064, 33418.041724173265, 26180.640188167577, 20721.063729770067, 16299.162833949931, 0.0], "held_out": [{"rank": 2, "measured_nats": 0.5395887659613781, "predicted_nats": 0.42568445295513035}, {"rank": 4, "measured_nats": 0.3050687160445629, "predicted_nats": 0.21857037494219816}, {"rank": 6, "measured_nats": 0.09679977848726225, "predicted_nats": 0.18386469017037255}, {"rank": 9, "measured_nats": 0.08569826308432614, "predicted_nats": 0.0571805666193266}, {"rank": 12, "measured_nats": 0.03397586980348736, "predicted_nats": 0.0422932297506502}, {"rank": 15, "measured_nats": 0.021148018202193166, "predicted_nats": 0.01657123535014147}], "measured": [{"rank": 1, "windows": 48, "loss_nats": 0.40533809805209453, "stderr_nats": 0.008567385179674333}, {"rank": 2, "windows": 48, "loss_nats": 0.5395887659613781, "stderr_nats": 0.005796787598769386}, {"rank": 4, "windows": 48, "loss_nats": 0.3050687160445629, "stderr_nats": 0.0035468908680568504}, {"rank": 6, "windows": 48, "loss_nats": 0.09679977848726225, "stderr_nats": 0.0036048112447649985}, {"rank": 9, "windows": 48, "loss_nats": 0.08569826308432614, "stderr_nats": 0.0027709873015107534}, {"rank": 12, "windows": 48, "loss_nats": 0.03397586980348736, "stderr_nats": 0.0016260886000007946}, {"rank": 15, "windows": 48, "loss_nats": 0.021148018202193166, "stderr_nats": 0.0010053250147594665}], "component": "ov", "full_rank": 16, "loss_nats": [0.4974292180891151, 0.4974292180891151, 0.39280190859532604, 0.3050687160445629, 0.17443191668012908, 0.09679977848726225, 0.09294871213464016, 0.08942951916768517, 0.08569826308432614, 0.06422631793308191, 0.04679551804463633, 0.03397586980348736, 0.028918465089776607, 0.024780314443349195, 0.021148018202193166, 0.0]}, {"layer": 1, "ranks": [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62, 64, 66, 68, 70, 72, 74, 76, 78, 80, 82, 84, 86, 88, 90, 92, 94, 96, 98, 100, 102, 104, 106, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126, 128], "repairs": [], "analytic": [848145.8738198727, 809243.3908427486, 760535.2442046821, 714784.5029060561, 673165.6814723437, 635651.1490258308, 594845.3810236712, 556586.7095893045, 525321.3516530219, 490912.67979953374, 465327.8264863844, 432682.92903982557, 408195.5873769878, 385402.28819955495, 365869.049171174, 343688.1952519481, 320861.28180060204, 303545.4983405211, 282246.2711406887, 266167.9346208218, 254509.89148591962, 236135.06374424364, 222603.12469068516, 210048.97331972743, 196587.12447033258, 185616.36165349174, 173777.53369848154, 162844.2334910324, 153594.46921402228, 145486.0543125605, 135622.35086933567, 128435.92261944848, 120639.62288184484, 113682.65916312019, 106266.30745327885, 101596.29947350202, 94748.09882317194, 89784.3153011312, 84687.72077898734, 78667.79622598726, 74204.29449508975, 70112.35191697675, 65596.29987324237, 61552.74795828532, 58406.25426408689, 55117.6853870652, 51875.51837063829, 48516.04171830878, 45410.612466977596, 43231.033251134584, 40397.20132113891, 37567.53335620373, 35353.407066598134, 33703.296644423455, 31270.330165458876, 29384.527160461974, 27857.675561242453, 26271.620140733063, 24679.03921157571, 23234.32946643741, 21898.749356032607, 20639.10280764696, 19316.159983601367, 0.0], "held_out": [{"rank": 10, "measured_nats": 0.636125964812712, "predicted_nats": 0.556102721519388}, {"rank": 26, "measured_nats": 0.2837482758382063, "predicted_nats": 0.3413482641980213}, {"rank": 46, "measured_nats": 0.16051187745053674, "predicted_nats": 0.1930700789742845}, {"rank": 70, "measured_nats": 0.12072431901782427, "predicted_nats": 0.09265038700603641}, {"rank": 96, "measured_nats": 0.05173549561693556, "predicted_nats": 0.06017144119528303}, {"rank": 126, "measured_nats": 0.02655737533084571, "predicted_nats": 0.020597952239589056}], "measured": [{"rank": 2, "windows": 48, "loss_nats": 0.75880656820241, "stderr_nats": 0.022915949029599567}, {"rank": 10, "windows": 48, "loss_nats": 0.636125964812712, "stderr_nats": 0.029289541607782497}, {"rank": 26, "windows": 48, "loss_nats": 0.2837482758382063, "stderr_nats": 0.008540012705764339}, {"rank": 46, "windows": 48, "loss_nats": 0.16051187745053674, "stderr_nats": 0.005289652725679746}, {"rank": 70, "windows": 48, "loss_nats": 0.12072431901782427, "stderr_nats": 0.0044840457883141005}, {"rank": 96, "windows": 48, "loss_nats": 0.05173549561693556, "stderr_nats": 0.0021834655285182824}, {"rank": 126, "windows": 48, "loss_nats": 0.02655737533084571, "stderr_nats": 0.0010706301859820214}], "component": "mlp", "full_rank": 128, "loss_nats": [0.75880656820241, 0.7320959108078381, 0.6982191144093566, 0.6659281793937423, 0.636125964812712, 0.5799008830391359, 0.5210168290669358, 0.46801365107051535, 0.4263231358703189, 0.3821719478866183, 0.35054600821125886, 0.31172053345401274, 0.2837482758382063, 0.26883570728800665, 0.25601366900888667, 0.2414032906670782, 0.2263076721564451, 0.2148134675287839, 0.20062033319175013, 0.18986352179579294, 0.18203953167334166, 0.169663282289791, 0.16051187745053674, 0.15696222841424248, 0.15300784798485564, 0.14966023578520649, 0.1459083053344267, 0.1423010902043019, 0.13913119369875873, 0.13625442822141892, 0.13261871033080816, 0.12986617012893562, 0.12677073220058196, 0.12390293590054303, 0.12072431901782427, 0.11500084346046474, 0.1066464354015422, 0.1006211331870743, 0.09446257001248476, 0.08722689803867237, 0.08189059826616586, 0.07702120756252719, 0.07167377055421173, 0.06691093565209623, 0.06322209625825549, 0.05938382697331676, 0.05561778047226788, 0.05173549561693556, 0.04931595522328697, 0.047590469795606036, 0.0453106350052789, 0.04298964985117038, 0.04113976899892728, 0.039740277975380794, 0.037641734963922646, 0.0359840220091589, 0.03462024711230887, 0.033181552630044193, 0.03171260326342803, 0.030357259253036194, 0.02908345827078485, 0.02786228567103562, 0.02655737533084571, 0.0]}], "effort": "standard", "schema": "rankalloc.profile/1", "solver": "a3+", "identity": {"steps": {"ov": 1, "qk": 2, "mlp": 2}, "effort": {"points": 7, "most_windows": 48, "stderr_share": 0.05, "first_windows": 16, "spacing_halves": 3}, "schema": "rankalloc.identity/2", "solution": {"loss": "kl_nats_per_token", "around": null, "prefix": [1], "solver": "a3+/4", "geometry": {"fixed": [], "heads": 4, "vocab": 256, "family": "llama", "hidden": 64, "layers": 2, "experts": 1, "ov_bias": false, "qk_bias": false, "qk_step": 2, "windows": [], "head_dim": 16, "kv_heads": 2, "mlp_bias": false, "intermediate": 128, "mlp_matrices": 3, "total_params": 110000, "max_positions": 128, "active_experts": 1, "bytes_per_param": 2}, "fit_windows": 192, "block_windows": 32, "compute_dtype": "float32", "config_sha256": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "window_tokens": 128, "weights_sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "tokenizer_sha256": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "fit_shard_windows": 96, "calibration_sha256": "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"}}, "calibration": {"sha256": "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc", "tokens": 50000, "fit_windows": 192, "measure_windows": 96}, "solver_version": "a3+/4"}', '2026-11-24 18:54:09.075748+00');
INSERT INTO public.shares VALUES ('01M87EH1865B138NQF6QMPSTTM', 'default', 'red', 'profile', '877fa92a4d8f48235d9ac7d869da576c69cd17dae43d04403b4045c642da789c', 'me', '2026-11-24 18:54:09.158742+00', NULL, NULL);
INSERT INTO public.teams VALUES ('default', '2026-11-24 18:54:08.937013+00');
INSERT INTO public.teams VALUES ('red', '2026-11-24 18:54:09.130239+00');
INSERT INTO public.tokens VALUES ('01M87EH17PTGRMXPJBMSTE9E4D', 'default', 'ada', 'submit', 'cfa9834cdfbe1a5d2f62e5237c4a24eaf82c6acc78417c8e51b883da838e2bc3', 'ra_9-NUk1', 'me', '2026-11-24 18:54:09.143524+00', NULL, NULL, NULL);
INSERT INTO public.units VALUES (1, 'default', 'unit-1', '{"text": "größer ✓", "loss_nats": 3.3333333333333335}', '2026-11-24 18:54:09.070503+00');
SELECT pg_catalog.setval('public.artifacts_id_seq', 1, true);
SELECT pg_catalog.setval('public.audit_id_seq', 12, true);
SELECT pg_catalog.setval('public.latency_tables_id_seq', 1, true);
SELECT pg_catalog.setval('public.models_id_seq', 1, true);
SELECT pg_catalog.setval('public.outbox_id_seq', 10, true);
SELECT pg_catalog.setval('public.plan_alias_changes_id_seq', 1, true);
SELECT pg_catalog.setval('public.plan_aliases_id_seq', 1, true);
SELECT pg_catalog.setval('public.plan_budgets_id_seq', 1, true);
SELECT pg_catalog.setval('public.plan_comments_id_seq', 1, true);
SELECT pg_catalog.setval('public.plan_labels_id_seq', 1, true);
SELECT pg_catalog.setval('public.plan_measurements_id_seq', 1, true);
SELECT pg_catalog.setval('public.plans_id_seq', 1, true);
SELECT pg_catalog.setval('public.profiles_id_seq', 1, true);
SELECT pg_catalog.setval('public.units_id_seq', 1, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT pk_artifacts PRIMARY KEY (id);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT pk_audit PRIMARY KEY (id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT pk_events PRIMARY KEY (job_id, seq);
ALTER TABLE ONLY public.job_items
    ADD CONSTRAINT pk_job_items PRIMARY KEY (id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT pk_jobs PRIMARY KEY (id);
ALTER TABLE ONLY public.latency_tables
    ADD CONSTRAINT pk_latency_tables PRIMARY KEY (id);
ALTER TABLE ONLY public.members
    ADD CONSTRAINT pk_members PRIMARY KEY (team, name);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT pk_models PRIMARY KEY (id);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT pk_outbox PRIMARY KEY (id);
ALTER TABLE ONLY public.plan_alias_changes
    ADD CONSTRAINT pk_plan_alias_changes PRIMARY KEY (id);
ALTER TABLE ONLY public.plan_aliases
    ADD CONSTRAINT pk_plan_aliases PRIMARY KEY (id);
ALTER TABLE ONLY public.plan_budgets
    ADD CONSTRAINT pk_plan_budgets PRIMARY KEY (id);
ALTER TABLE ONLY public.plan_comments
    ADD CONSTRAINT pk_plan_comments PRIMARY KEY (id);
ALTER TABLE ONLY public.plan_labels
    ADD CONSTRAINT pk_plan_labels PRIMARY KEY (id);
ALTER TABLE ONLY public.plan_measurements
    ADD CONSTRAINT pk_plan_measurements PRIMARY KEY (id);
ALTER TABLE ONLY public.plans
    ADD CONSTRAINT pk_plans PRIMARY KEY (id);
ALTER TABLE ONLY public.profiles
    ADD CONSTRAINT pk_profiles PRIMARY KEY (id);
ALTER TABLE ONLY public.shares
    ADD CONSTRAINT pk_shares PRIMARY KEY (id);
ALTER TABLE ONLY public.teams
    ADD CONSTRAINT pk_teams PRIMARY KEY (name);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT pk_tokens PRIMARY KEY (id);
ALTER TABLE ONLY public.units
    ADD CONSTRAINT pk_units PRIMARY KEY (id);
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT uq_artifacts_job_id_name UNIQUE (job_id, name);
ALTER TABLE ONLY public.job_items
    ADD CONSTRAINT uq_job_items_job_id_stage_key UNIQUE (job_id, stage, key);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT uq_jobs_team_idempotency_key UNIQUE (team, idempotency_key);
ALTER TABLE ONLY public.latency_tables
    ADD CONSTRAINT uq_latency_tables_team_digest UNIQUE (team, digest);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT uq_models_team_reference_weights_sha256 UNIQUE (team, reference, weights_sha256);
ALTER TABLE ONLY public.plan_alias_changes
    ADD CONSTRAINT uq_plan_alias_changes_team_name_version UNIQUE (team, name, version);
ALTER TABLE ONLY public.plan_aliases
    ADD CONSTRAINT uq_plan_aliases_team_name UNIQUE (team, name);
ALTER TABLE ONLY public.plan_labels
    ADD CONSTRAINT uq_plan_labels_team_digest_label UNIQUE (team, digest, label);
ALTER TABLE ONLY public.plan_measurements
    ADD CONSTRAINT uq_plan_measurements_team_digest_job_id UNIQUE (team, digest, job_id);
ALTER TABLE ONLY public.plans
    ADD CONSTRAINT uq_plans_team_digest UNIQUE (team, digest);
ALTER TABLE ONLY public.profiles
    ADD CONSTRAINT uq_profiles_team_key UNIQUE (team, key);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT uq_tokens_sha256 UNIQUE (sha256);
ALTER TABLE ONLY public.units
    ADD CONSTRAINT uq_units_team_key UNIQUE (team, key);
CREATE INDEX ix_audit_team_kind_key ON public.audit USING btree (team, kind, key);
CREATE INDEX ix_job_items_finished_at ON public.job_items USING btree (finished_at);
CREATE INDEX ix_job_items_state_lease_expires_at ON public.job_items USING btree (state, lease_expires_at);
CREATE INDEX ix_job_items_state_publish_after ON public.job_items USING btree (state, publish_after);
CREATE INDEX ix_jobs_state ON public.jobs USING btree (state);
CREATE INDEX ix_jobs_team_id ON public.jobs USING btree (team, id);
CREATE INDEX ix_jobs_team_model_id ON public.jobs USING btree (team, model, id);
CREATE INDEX ix_jobs_team_plan_digest ON public.jobs USING btree (team, plan_digest);
CREATE INDEX ix_jobs_team_state_id ON public.jobs USING btree (team, state, id);
CREATE INDEX ix_models_team_weights_sha256 ON public.models USING btree (team, weights_sha256);
CREATE INDEX ix_outbox_due_at ON public.outbox USING btree (due_at);
CREATE INDEX ix_outbox_item_id ON public.outbox USING btree (item_id);
CREATE INDEX ix_plan_aliases_team_digest ON public.plan_aliases USING btree (team, digest);
CREATE INDEX ix_plan_budgets_team_digest ON public.plan_budgets USING btree (team, digest);
CREATE INDEX ix_plan_budgets_team_metric_limit_value ON public.plan_budgets USING btree (team, metric, limit_value);
CREATE INDEX ix_plan_comments_team_digest ON public.plan_comments USING btree (team, digest);
CREATE INDEX ix_plan_labels_team_label ON public.plan_labels USING btree (team, label);
CREATE INDEX ix_plans_team_derived_from ON public.plans USING btree (team, derived_from);
CREATE INDEX ix_plans_team_id ON public.plans USING btree (team, id);
CREATE INDEX ix_plans_team_model_id ON public.plans USING btree (team, model, id);
CREATE INDEX ix_plans_team_predicted_loss_nats ON public.plans USING btree (team, predicted_loss_nats);
CREATE INDEX ix_plans_team_profile_key_id ON public.plans USING btree (team, profile_key, id);
CREATE INDEX ix_plans_team_weights_sha256_id ON public.plans USING btree (team, weights_sha256, id);
CREATE INDEX ix_profiles_team_id ON public.profiles USING btree (team, id);
CREATE INDEX ix_profiles_team_model_id ON public.profiles USING btree (team, model, id);
CREATE INDEX ix_profiles_team_weights_sha256_id ON public.profiles USING btree (team, weights_sha256, id);
CREATE INDEX ix_shares_team_kind_key ON public.shares USING btree (team, kind, key);
CREATE INDEX ix_shares_with_team_kind_key ON public.shares USING btree (with_team, kind, key);
CREATE INDEX ix_tokens_team_name ON public.tokens USING btree (team, name);
CREATE UNIQUE INDEX uq_shares_live ON public.shares USING btree (team, with_team, kind, key) WHERE (revoked_at IS NULL);
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT fk_artifacts_job_id_jobs FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.events
    ADD CONSTRAINT fk_events_job_id_jobs FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.job_items
    ADD CONSTRAINT fk_job_items_job_id_jobs FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.members
    ADD CONSTRAINT fk_members_team_teams FOREIGN KEY (team) REFERENCES public.teams(name);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT fk_outbox_item_id_job_items FOREIGN KEY (item_id) REFERENCES public.job_items(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.shares
    ADD CONSTRAINT fk_shares_team_teams FOREIGN KEY (team) REFERENCES public.teams(name);
ALTER TABLE ONLY public.shares
    ADD CONSTRAINT fk_shares_with_team_teams FOREIGN KEY (with_team) REFERENCES public.teams(name);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT fk_tokens_team_teams FOREIGN KEY (team) REFERENCES public.teams(name);
