//! Plans for shapes that no format is needed for.

use super::*;

fn field(name: &str, shape: Shape) -> Member {
    aliased(name, &[], shape)
}

fn aliased(name: &str, aliases: &[&str], shape: Shape) -> Member {
    let key = |name: &str| Key::Field(name.to_owned());
    let aliases = aliases.iter().map(|name| key(name)).collect();
    Member { source: 0, key: key(name), name: name.to_owned(), aliases, branch: Vec::new(), shape }
}

fn of(mut members: Vec<Member>) -> Shape {
    members.iter_mut().enumerate().for_each(|(at, member)| member.source = at);
    Shape::Struct(members)
}

const INT: Shape = Shape::Primitive(PrimitiveType::Int);
const LONG: Shape = Shape::Primitive(PrimitiveType::Long);
const TEXT: Shape = Shape::Primitive(PrimitiveType::String);

fn decimal(precision: u32, scale: u32) -> Shape {
    Shape::Primitive(PrimitiveType::Decimal { precision, scale })
}

/// A table that only the owner and [`plan`] change.
struct Owned {
    fields: Vec<NestedFieldRef>,
    last_column_id: i32,
    map: ColumnMap,
    pinned: Vec<i32>,
}

impl Owned {
    fn new() -> Self {
        let system = Type::Struct(StructType::new(vec![
            NestedField::required(2, "offset", Type::Primitive(PrimitiveType::Long)).into(),
        ]));
        let fields = vec![NestedField::required(1, "tidewater", system).into()];
        Self { fields, last_column_id: 2, map: ColumnMap::default(), pinned: Vec::new() }
    }

    fn plan(&self, shape: &Shape, on_conflict: OnConflict) -> Result<Plan, Refused> {
        let schema = Schema::builder().with_fields(self.fields.clone()).build().expect("schema");
        let (last_column_id, map) = (self.last_column_id, &self.map);
        plan(
            &Table {
                schema: &schema,
                last_column_id,
                map,
                reserved: &[1],
                pinned: &self.pinned,
                taken: &["tidewater_hour"],
            },
            shape,
            on_conflict,
        )
    }

    fn follow(&mut self, shape: &Shape) -> Vec<Change> {
        let plan = self.plan(shape, OnConflict::Column).expect("plan");
        self.fields = plan.schema.as_struct().fields().to_vec();
        self.last_column_id = plan.last_column_id;
        self.map = plan.map;
        assert_eq!(self.plan(shape, OnConflict::Column).expect("plan").changes, [], "a plan is done once");
        plan.changes
    }

    /// `name:type` of each column but ours.
    fn columns(&self) -> Vec<String> {
        self.fields[1..].iter().map(|field| format!("{}:{}", field.name, field.field_type)).collect()
    }

    fn alter(&mut self, name: &str, alter: impl FnOnce(&mut NestedField)) {
        let field = self.fields.iter_mut().find(|field| field.name == name).expect("the column");
        let mut altered = NestedField::clone(field);
        alter(&mut altered);
        *field = Arc::new(altered);
    }
}

fn add(id: i32, path: &str) -> Change {
    Change::Add { id, path: path.to_owned() }
}

#[test]
fn members_become_columns_in_lower_case_with_names_that_engines_can_tell_apart() {
    let mut table = Owned::new();
    let list = Shape::List(Box::new(of(vec![field("X", INT)])));
    let map = Shape::Map(Box::new(LONG));
    let shape = of(vec![
        field("userId", INT),
        field("UserID", TEXT),
        field("Tidewater", TEXT),
        field("list", list),
        field("m", map),
        field("tidewater_hour", INT),
    ]);
    let changes = table.follow(&shape);
    assert_eq!(
        changes,
        [
            add(3, "userid"),
            add(4, "userid_1"),
            add(5, "tidewater_1"),
            add(6, "list"),
            add(9, "m"),
            add(12, "tidewater_hour_1")
        ],
        "what is inside a new column is no change of its own"
    );
    assert_eq!(table.last_column_id, 12);
}

#[test]
fn a_column_that_is_not_in_the_map_is_not_ours() {
    let mut table = Owned::new();
    table.fields.push(NestedField::optional(3, "a", Type::Primitive(PrimitiveType::Int)).into());
    table.last_column_id = 3;
    assert_eq!(table.follow(&of(vec![field("a", INT)])), [add(4, "a_1")]);
}

#[test]
fn types_are_promoted_and_narrow_ones_written_as_they_are() {
    let mut table = Owned::new();
    table.follow(&of(vec![field("a", INT), field("d", decimal(9, 2))]));
    let changes = table.follow(&of(vec![field("d", decimal(12, 2)), field("a", LONG)]));
    assert_eq!(changes.len(), 2);
    assert_eq!(table.follow(&of(vec![field("a", INT), field("d", decimal(5, 2))])), []);
    assert_eq!(table.columns(), ["a:long", "d:decimal(12, 2)"]);
    table.pinned = vec![4];
    let conflicts = table.plan(&of(vec![field("d", decimal(20, 2))]), OnConflict::Report).expect("plan").conflicts;
    assert_eq!(conflicts.len(), 1, "a pinned column keeps its type");
}

#[test]
fn a_type_that_does_not_fit_is_reported_or_gets_a_column() {
    let mut table = Owned::new();
    table.follow(&of(vec![field("amount", INT), field("in", of(vec![field("x", INT)]))]));
    let text = of(vec![field("amount", TEXT), field("in", of(vec![field("x", Shape::List(Box::new(INT)))]))]);
    let plan = table.plan(&text, OnConflict::Report).expect("plan");
    let words: Vec<String> = plan.conflicts.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        ["column amount is int; the schema has string there", "column in.x is int; the schema has list there",]
    );
    assert_eq!(table.follow(&text), [add(6, "amount__string"), add(7, "in.x__list")]);
    // Both types go on, each in its column.
    assert_eq!(table.follow(&of(vec![field("amount", INT)])), []);
    assert_eq!(table.follow(&of(vec![field("amount", decimal(3, 0))])), [add(9, "amount__decimal")]);
    assert_eq!(table.columns()[0], "amount:int");
}

#[test]
fn a_column_beside_has_a_name_of_its_own_and_is_found_by_every_later_schema() {
    let mut table = Owned::new();
    let list = |item: Shape| Shape::List(Box::new(item));
    table.follow(&of(vec![
        field("Amount", INT),
        field("amount__STRING", INT),
        field("tags", list(INT)),
        field("lines", list(of(vec![field("n", INT)]))),
        field("m", Shape::Map(Box::new(of(vec![field("n", INT)])))),
    ]));
    let text = of(vec![
        field("m", Shape::Map(Box::new(of(vec![field("n", TEXT)])))),
        field("lines", list(of(vec![field("n", TEXT)]))),
        field("tags", list(TEXT)),
        field("Amount", TEXT),
    ]);
    let at = table.last_column_id;
    assert_eq!(
        table.follow(&text),
        [
            add(at + 1, "m.n__string"),
            add(at + 2, "lines.n__string"),
            add(at + 3, "tags__list"),
            add(at + 5, "amount__string_1"),
        ],
        "inside structs, also those of lists and maps; a list of another type is a column beside the list"
    );
    let more = of(vec![field("Amount", TEXT), field("tags", list(TEXT)), field("more", INT)]);
    assert_eq!(table.follow(&more), [add(at + 6, "more")]);
    // The column that was there first still grows, and takes what fits into it.
    assert!(matches!(table.follow(&of(vec![field("Amount", LONG)]))[..], [Change::Promote { .. }]));
    let places = table.plan(&of(vec![field("Amount", INT)]), OnConflict::Column).expect("plan").places;
    assert_eq!(places[0].target, Some((1, Place::Leaf(PrimitiveType::Long))));
}

#[test]
fn a_column_beside_that_the_owner_dropped_is_not_made_again() {
    let mut table = Owned::new();
    let (number, text) = (of(vec![field("a", INT), field("b", INT)]), of(vec![field("a", TEXT), field("b", INT)]));
    table.follow(&number);
    assert_eq!(table.follow(&text), [add(5, "a__string")]);
    table.fields.retain(|field| field.name != "a__string");
    table.map = ColumnMap::parse(&table.map.to_text()).expect("own text");
    assert_eq!(table.follow(&text), [], "that part of the value is left out");
    assert_eq!(table.plan(&text, OnConflict::Column).expect("plan").places[0].target, None);
    assert_eq!(table.plan(&text, OnConflict::Report).expect("plan").conflicts.len(), 1, "no value is cut unasked");
    assert_eq!(table.follow(&of(vec![field("a", Shape::List(Box::new(INT)))])), [add(6, "a__list")], "of other types");
    // The first column goes: its values get one again, since its type is not known any more.
    table.fields.retain(|field| field.name != "a");
    assert_eq!(table.follow(&number), [add(8, "a__int")]);
}

#[test]
fn an_alias_renames_a_column_that_no_other_member_claims() {
    let mut table = Owned::new();
    table.follow(&of(vec![field("a", INT), field("b", INT)]));
    let renamed = of(vec![aliased("c", &["a"], INT), field("b", INT)]);
    assert_eq!(table.follow(&renamed), [Change::Rename { id: 3, from: "a".to_owned(), to: "c".to_owned() }]);
    assert_eq!(table.follow(&of(vec![field("a", INT)])), [], "older schemas find the column");
    // Back again: the column keeps its newest name, so that two schemas in turn do not rename it for ever.
    assert_eq!(table.follow(&of(vec![aliased("a", &["c"], INT)])), []);
    // `b` is there itself, so its alias on `e` renames nothing.
    let both = of(vec![aliased("e", &["b"], INT), field("b", INT)]);
    assert_eq!(table.follow(&both), [add(5, "e")]);
    // Beside `c`, a member `a` is another one.
    assert_eq!(table.follow(&of(vec![field("c", INT), field("a", INT)])), [add(6, "a")]);
    assert_eq!(table.columns(), ["c:int", "b:int", "e:int", "a:int"]);
}

#[test]
fn what_the_owner_did_to_a_column_stays() {
    let mut table = Owned::new();
    let shape = of(vec![field("a", INT), field("b", INT), field("c", INT)]);
    table.follow(&shape);
    table.alter("a", |field| field.name = "mine".to_owned());
    table.alter("b", |field| *field.field_type = Type::Primitive(PrimitiveType::Long));
    table.fields.retain(|field| field.name != "c");
    assert_eq!(table.follow(&shape), []);
    let places = table.plan(&shape, OnConflict::Report).expect("plan").places;
    assert_eq!(places[2].target, None, "a dropped column is not made again");
    assert_eq!(table.follow(&of(vec![aliased("d", &["a"], INT)])), [], "the owner's name stays");
    assert_eq!(table.follow(&of(vec![field("d", INT)])), []);
    assert_eq!(table.columns(), ["mine:int", "b:long"]);
}

#[test]
fn a_table_has_no_more_than_its_columns() {
    let wide = |from: usize| of((from..from + 600).map(|at| field(&format!("f{at}"), INT)).collect());
    let mut table = Owned::new();
    table.follow(&wide(0));
    let refused = table.plan(&wide(600), OnConflict::Report).map(|_| ());
    assert_eq!(refused, Err(Refused::Columns { columns: 1200, max: COLUMNS_MAX }));
}

#[test]
fn a_long_name_does_not_enter_the_metadata() {
    let table = Owned::new();
    let named = |len: usize| of(vec![field("s", of(vec![field(&"n".repeat(len), INT)]))]);
    assert!(table.plan(&named(255), OnConflict::Report).is_ok());
    assert!(matches!(table.plan(&named(256), OnConflict::Report), Err(Refused::Name { bytes: 256, .. })));
}

#[test]
fn columns_of_an_adopted_table_are_found_by_their_names_and_only_once() {
    let mut table = Owned::new();
    for (id, name) in [(3, "userId"), (4, "amount")] {
        table.fields.push(NestedField::optional(id, name, Type::Primitive(PrimitiveType::Int)).into());
        table.map.adopt(id, ROOT, name);
    }
    table.last_column_id = 4;
    table.map = ColumnMap::parse(&table.map.to_text()).expect("its own text");
    let number = Key::Number { message: Some("Order".to_owned()), number: 2 };
    let by_number = Member { key: number, ..field("amount", INT) };
    let shape = of(vec![field("USERID", INT), field("userid", INT), by_number.clone()]);
    let added = Change::Add { id: 5, path: "userid_1".to_owned() };
    assert_eq!(table.follow(&shape), [added], "the first one has it");
    assert_eq!(table.map.at(ROOT, &by_number.key).collect::<Vec<_>>(), [4]);
    assert_eq!(table.follow(&of(vec![field("amount", INT)])), [], "values without numbers find it by its name");
}
